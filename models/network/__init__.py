"""The spiking network in snnTorch, its fused scan over time, and its non-spiking twin.

Importing ``models.network.csnn`` loads torch; ``models.network.spec`` does not.
"""
