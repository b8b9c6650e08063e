"""Rendered training sounds: phrases by small random composers, played by fluidsynth, espeak-ng and own synthesis.

    midi         notes and controls of a phrase, the random choices that composers share, and phrases as a MIDI file
    instruments  composers for guitars, melodic instruments and drums
    speech       sentences and voices
    synthesis    MIDI, text, samples, plucked strings and noises to audio, all at RATE_HZ
    material     the whole set of training clips, written to a folder

Needs the Debian packages fluidsynth, fluid-soundfont-gm, csound-soundfont,
musescore-general-soundfont and espeak-ng.
"""
