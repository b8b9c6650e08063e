"""New classes for a finished model from a handful of recordings: the network's body stays as it is, to the bit.

What is learnt is a head: a few spiking neurons beside the dense layer's, that read the last
convolution as those do, and one row of the read-out per class. The other rows are not touched, so
that every old score stays what it was.
"""
