"""Recordings of Debian's packages: strangers, voices and a few instruments to train with, and others to judge with.

catalogue  which files of which package are of which class, read from catalogue.toml
index      of each clip what it is and where it is from
players    its instruments: phrases played with recordings of single notes
gather     those files as clips of one rate in a folder, with an index that says where each is from
"""
