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
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: there is no such device", "use auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if accelerator is not None and accelerator.type == device.type else 0
    if (device.index or 0) >= count:
        raise UsageError(
            f"--device {name}: torch finds {count} {device.type} devices on this machine",
            "use --device cpu, or see `infomax doctor`",
        )
    return device


def make_repeatable(device: torch.device) -> None:
    """Have a GPU sum in the same order every time, so that a resumed run equals the uninterrupted one."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs time


def autocast(device: torch.device, amp: Amp) -> torch.autocast:
    return torch.autocast(device.type, dtype=_DTYPES[amp], enabled=amp != "none")


def gradient_scaler(device: torch.device, amp: Amp) -> torch.amp.GradScaler:
    """Scales what fp16 would lose below its range; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=amp == "fp16")


def default_workers() -> int:
    """Loader processes: one for each core but the first, four at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores - 1)
