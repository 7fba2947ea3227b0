"""Saving and loading what a run needs to go on; never anything that could run code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from infomax_cli.core.files import write_atomically
from infomax_cli.errors import CheckpointError
from infomax_cli.runs import Run
from infomax_cli.wording import describe_error

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) so that `path` is whole at any moment."""
    with _writing(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read on the CPU. Raises `CheckpointError` when it is missing, damaged, or holds more than data."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong", _NOTHING_OF_IT)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}", "name another run") from error
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than weights and numbers; it was not loaded",
            "infomax never runs code from a checkpoint; use a file that infomax wrote",
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", _NOTHING_OF_IT) from error
    except Exception as error:  # a file that is no checkpoint can make its readers stumble anywhere
        reason = "it is no zip archive" if isinstance(error, zipfile.BadZipFile) else describe_error(error)
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}", _NOTHING_OF_IT) from error
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of infomax", _NOTHING_OF_IT)
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} was written by another version of infomax", "use that version to go on with it")
    return state


_NOTHING_OF_IT = "nothing of it was used; put back a copy (train.keep leaves older ones), or start anew"


def save_encoder(
    path: Path,
    encoder: nn.Module,
    recipe: dict[str, Any],
    step: int | None = 0,
    inputs: Mapping[str, Any] | None = None,
    *,
    extra: Mapping[str, str] | None = None,
) -> None:
    """The encoder alone; in the file's metadata the recipe that rebuilds it, the steps that it was trained for, and
    what it takes (channels, grid, rate), so that it is of use without its data."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    metadata = {"format": "infomax", "recipe": json.dumps(recipe), **(extra or {})}
    metadata |= {} if step is None else {"step": str(step)}
    metadata |= {} if inputs is None else {"inputs": json.dumps(inputs)}
    with _writing(path) as temporary:
        temporary.write_bytes(save(weights, metadata=metadata))


def load_encoder_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as encoder weights: {error}") from error


def encoder_metadata(path: Path) -> dict[str, str]:
    """What a saved encoder says of itself."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as encoder weights: {error}") from error


def encoder_step(path: Path) -> int | None:
    """The steps that a saved encoder was trained for; None where the file does not tell."""
    step = encoder_metadata(path).get("step", "")
    return int(step) if step.isdecimal() else None


def restore(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Strictly load `weights` into `module`; says what differs first."""
    hint = "choose a run with the same encoder, or give this one the options of that (`infomax recipes show`)"
    own = module.state_dict()
    for name in [*own, *weights]:
        if name not in weights:
            raise CheckpointError(f"{source} has no {name}: it comes from another encoder", hint)
        if name not in own:
            raise CheckpointError(f"{source} has {name}, which this encoder lacks: it comes from another one", hint)
        if own[name].shape != weights[name].shape:
            theirs, ours = tuple(weights[name].shape), tuple(own[name].shape)
            raise CheckpointError(f"{source}: {name} is {theirs}, but this encoder's is {ours}", hint)
    module.load_state_dict(weights)


@contextlib.contextmanager
def understanding(run: Run) -> Iterator[None]:
    """A checkpoint that is whole may still hold something else than is looked for."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{run.last} is not what this recipe makes: {reason}", "was it copied from another run?"
        ) from error


def keep_older(run: Run, step: int, keep: int) -> None:
    """A second name for this checkpoint, by its step; only the newest `keep` of them stay."""
    if not keep:
        return
    with write_atomically(run.numbered(step)) as temporary:
        temporary.unlink()
        try:
            os.link(run.last, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(run.last, temporary)
    for old in sorted(run.checkpoints.glob("step-*.pt"))[:-keep]:
        old.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """`write_atomically`, a failure told as what it is."""
    try:
        with write_atomically(path) as temporary:
            yield temporary
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot write {path}: {_why(error)}",
            "make room, or choose another folder with --runs; what was saved before is whole",
        ) from error


def _why(error: BaseException) -> str:
    """In the system's words, over which torch stumbles when it wants to end its file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return describe_error(error)
