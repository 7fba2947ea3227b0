"""Pickles as data: plain containers, text, numbers and numpy arrays come out, and nothing is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from infomax_cli.core.api import DataError

# the modules in which old and new versions of numpy have what arrays are made of
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_ARRAY = object()  # what stands for the class of arrays, and can do nothing


class _Refused(Exception):  # noqa: N818
    """The pickle asks for something that is not let in."""


class _Unpickler(pickle.Unpickler):
    """Knows arrays, and nothing else that has a name."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _KNOWN:
            return _KNOWN[name]
        if (module, name) == ("_codecs", "encode"):
            return _make_bytes
        raise _Refused(f"{module}.{name}")


def _make_array(kind: object, shape: object, dtype: object) -> Any:
    """An array that is yet to be filled; numpy pickles one without elements first."""
    if kind is not _ARRAY or shape != (0,):
        raise _Refused("an array of a strange kind")
    return np.empty(0, np.uint8)


def _make_type(name: object, align: object = False, copy: object = False) -> Any:
    if not isinstance(name, str) or np.dtype(name).hasobject:
        raise _Refused("an array of objects")
    return np.dtype(name, copy=True)  # what follows in the pickle changes it


def _make_bytes(text: object, encoding: object) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"the encoding {encoding}")
    return text.encode("latin1")


_KNOWN = {"_reconstruct": _make_array, "ndarray": _ARRAY, "dtype": _make_type}


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
