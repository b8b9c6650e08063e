"""The spiking network in snnTorch: data, training, evaluation, and the models that ship.

Importing this package loads no torch; ``models.network`` does.
"""
