"""Scenes: long streams of sound with reference annotations, to evaluate a detector's events on.

sounds       the sounds that the evaluated model was not trained on, cut to their active part
synthetic    rendered instruments, voices, and computed out-of-class sounds
plan         onsets, backgrounds, levels and rooms of a scene, drawn from a seed before any audio is rendered
mixing       a plan's segments as audio, the reference, and the folder of a scene
folder       a scene read back
"""
