# The installed program gives the script itself, as its release of click has it.
_SNN_TRAIN_COMPLETE=fish_source snn-train | source
