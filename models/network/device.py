"""The training device: CUDA where there is one, else the CPU."""

from __future__ import annotations

import torch


def training_device() -> torch.device:
    """Return the device that networks are trained on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def quick_half_precision() -> bool:
    """Return whether this CPU multiplies bfloat16 natively, twice as fast as float32 (AVX-512 BF16, AMX)."""
    has_library = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_library and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - no public name
