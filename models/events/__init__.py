"""Judge the events of a model on scenes.

hearing      scenes through the pipeline that ships; stored scores through its decoder again
matching     which references were found, which events are false, how late and how often a sound is told of
curves       the same for a grid of thresholds: miss rate against false alarms per hour
standard     the field's own measures, by sed_scores_eval and sed_eval
conditions   figures by signal-to-noise ratio, background, level, source
report       everything as a table and as JSON
pictures     DET, precision and recall, confusion of events, timeline
channels     the same scene by other microphones and levels
tuning       decoder values by an open rule
"""
