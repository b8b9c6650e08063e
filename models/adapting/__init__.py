"""New classes for a trained model from a few recordings, on a frozen backbone.

Only a head is trained: some spiking neurons beside the dense layer, which read the last convolution like it, and
one read-out row per new class. The other read-out rows are unchanged, so that all old scores stay bit-identical.
"""
