"""Where and how precisely to compute."""

from __future__ import annotations

import os
from typing import Literal

import torch

from infomax_cli.errors import UsageError

Amp = Literal["none", "bf16", "fp16"]
_DTYPES = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Raises `UsageError` when it is not there."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: no such device", "use auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices to torch",
            "use --device cpu, or see `infomax doctor`",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: Metal is not available", "use --device cpu")
    return device


def autocast(device: torch.device, amp: Amp) -> torch.autocast:
    return torch.autocast(device.type, dtype=_DTYPES[amp], enabled=amp != "none")


def gradient_scaler(device: torch.device, amp: Amp) -> torch.amp.GradScaler:
    """Scales what fp16 would lose below its range; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=amp == "fp16")


def default_workers() -> int:
    """Loader processes: one for each core but the first, four at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores - 1)
