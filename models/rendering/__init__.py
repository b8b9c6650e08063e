"""Rendered sound: phrases written by small random composers, played by fluidsynth and espeak-ng.

    score      notes and controls of a phrase; phrases to a MIDI file
    synthesis  the commands: MIDI or text to samples, all at RATE_HZ
    chance     the random choices that composers share
    guitar, melodic, drums, speech, noise
               composers: a random generator in, a phrase, a text or samples out
    plucked    plucked strings computed from a phrase, each instrument another
    sampler    instruments from recordings of their single notes
    material   the whole set of training clips, written to a folder

Needs the Debian packages fluidsynth, fluid-soundfont-gm, csound-soundfont,
musescore-general-soundfont and espeak-ng.
"""
