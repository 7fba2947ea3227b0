"""Pickles as data: plain containers, text, numbers and numpy arrays come out, and nothing is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from infomax_cli.core.api import DataError

# what arrays are made of, by the names that old and new versions of numpy wrote
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_NAMES = ("_reconstruct", "ndarray", "dtype")


class _Refused(Exception):  # noqa: N818
    """The pickle asks for something that is not let in."""


class _Unpickler(pickle.Unpickler):
    """Knows arrays, and nothing else that has a name."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in _MODULES or name not in _NAMES:
            raise _Refused(f"{module}.{name}")
        if name == "_reconstruct":
            return _empty
        return {"ndarray": np.ndarray, "dtype": np.dtype}[name]


def _empty(kind: type, shape: tuple[int, ...], dtype: object) -> Any:
    """An array that is yet to be filled, as numpy pickles make it first; it has no size then."""
    if kind is not np.ndarray or shape != (0,):
        raise _Refused("an array of another kind")
    return np.ndarray((0,), np.uint8)


def load_pickle(path: Path) -> Any:
    """What is in a pickle of Python 2 or 3. Raises `DataError` where it holds more than data, or is damaged."""
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except _Refused as refusal:
        raise DataError(
            f"{path} is refused: it is a pickle that asks for {refusal}, which no data needs",
            "Nothing of it was run. Get the published file.",
        ) from refusal
    except Exception as error:  # damaged bytes may ask for anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{path} is damaged, or no pickle: {lines[0]}", "Copy or download it again.") from error
