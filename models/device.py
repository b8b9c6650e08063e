"""Where training runs: a CUDA device where there is one, else the CPU."""

from __future__ import annotations

import torch


def training_device() -> torch.device:
    """Return the device that networks are trained on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
