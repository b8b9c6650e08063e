"""The training device: CUDA where there is one, else the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch


def training_device() -> torch.device:
    """Return the device that networks are trained on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Have this thread compute with zero in place of denormal numbers, which take many times as long.

    Squares of small gradients are denormal: the optimiser and convolutions took a fifth of the time of training.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@cache
def quick_half_precision() -> bool:
    """Return whether convolutions are faster in bfloat16 than in float32 on this CPU.

    They are on CPUs with AMX, and on AMD's with AVX-512 BF16. On Intel's with AVX-512 BF16 but without AMX they take
    1.3 to 1.5 times as long, forward and backward, with torch 2.13.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 - no public name
        return False
    return not _cpu_words().isdisjoint({"amx_bf16", "AuthenticAMD"})


def _cpu_words() -> frozenset[str]:
    """Return the words of Linux's description of the CPU, vendor and flags among them; on other systems, none."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()
