"""Saving and loading what a run needs to go on; never anything that could run code."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infomax_cli.core.files import write_atomically
from infomax_cli.errors import CheckpointError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) so that `path` is whole at any moment."""
    with _writing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read on the CPU. Raises `CheckpointError` when it is missing, damaged, or holds more than data."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than weights and numbers; it was not loaded",
            "infomax never runs code from a checkpoint; use a file that infomax wrote",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a checkpoint of infomax")
    return state


def save_encoder(path: Path, encoder: nn.Module, recipe: dict[str, Any]) -> None:
    """The encoder alone, with the recipe that rebuilds it in the file's metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with _writing(path) as temporary:
        save_file(weights, temporary, metadata={"format": "infomax", "recipe": json.dumps(recipe)})


def load_encoder_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as encoder weights: {error}") from error


def restore(module: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Strictly load `weights` into `module`; says what differs first."""
    own = module.state_dict()
    for name in [*own, *weights]:
        if name not in weights:
            raise CheckpointError(f"{source} has no {name}; it comes from another encoder")
        if name not in own:
            raise CheckpointError(f"{source} has {name}, which this encoder lacks; it comes from another encoder")
        if own[name].shape != weights[name].shape:
            theirs, ours = tuple(weights[name].shape), tuple(own[name].shape)
            raise CheckpointError(f"{source}: {name} is {theirs}, but this encoder's is {ours}")
    module.load_state_dict(weights)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """`write_atomically`, a failure told as what it is."""
    try:
        with write_atomically(path) as temporary:
            yield temporary
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"cannot write {path}: {reason}",
            "make room or choose another folder with --runs; what was saved before is whole",
        ) from error
