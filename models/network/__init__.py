"""The spiking network in snnTorch, its scan over time, and its non-spiking twin.

Importing ``models.network.csnn`` loads torch.
"""
