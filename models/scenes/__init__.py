"""Scenes: long streams of sound with a reference of what is heard when, to judge a detector's events on.

sounds       one sound of a scene: its samples, and where in them it is heard
stock        the sounds that the judged model was not trained on
rendered     instruments and voices that training did not have
unclassed    animals and machines of no class, computed
backgrounds  what lies behind the sounds: rain, rooms, hum, babble, music, silence
plan         what happens when: by the dice of a seed, without a sample of sound
mixing       a plan's stretches as samples, and the reference
writing      the folder of a scene: sound files, tables, scenes.json
folder       a scene read back
"""
