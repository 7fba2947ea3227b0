"""What an augmentation is: its options are the constructor's, and a call draws what is random from one generator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from infomax_cli.core.api import DataSpec

Kind = Literal["images", "sound"]
Range = float | tuple[float, float]  # drawn uniformly between two values, or always the one


def kind_of(data: DataSpec) -> Kind | None:
    """Images ``(C, H, W)``, sound ``(C, T)``, or what only an augmentation of anything can take (spectrograms)."""
    if len(data.grid) == 1:
        return "sound"
    return "images" if len(data.grid) == 2 and data.rate is None else None


class Augmentation(ABC):
    """Something done to a raw item, ``(C, *grid)``, with probability `p`; the item itself is never changed in place.

    Built as ``Name(data: DataSpec, **options)``. Constructors raise `ValueError` on options that make no sense, and
    `InfomaxError` where something is missing. `medium` is what it works on; None: on anything.
    """

    medium: ClassVar[Kind | None] = None

    def __init__(self, data: DataSpec, *, p: float = 1.0) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}, but a probability is between 0 and 1")
        self.p = p

    def __call__(self, x: Tensor, random: np.random.Generator) -> Tensor:
        if self.p < 1 and random.random() >= self.p:
            return x
        return self.apply(x, random)

    @abstractmethod
    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """What is done to ``(C, *grid)`` when it is done."""


def check_range(name: str, given: Range, *, least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    """The two ends of a range. Raises `ValueError` unless they are finite, in order, and from `least` to `most`."""
    low, high = given if isinstance(given, tuple) else (given, given)
    if not (math.isfinite(low) and math.isfinite(high) and least <= low <= high <= most):
        bounds = f", between {least:g} and {most:g}" if most < math.inf else f" of at least {least:g}"
        raise ValueError(
            f"{name} is {_shown(given)}, but takes a number or two in order{bounds if least > -math.inf else ''}"
        )
    return low, high


def check_at_least(least: float, **options: float) -> None:
    """Raise `ValueError` on an option that is below `least`, or no finite number."""
    for name, value in options.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} is {value:g}, but must be at least {least:g}")


def _shown(given: Range) -> str:
    return f"[{given[0]:g}, {given[1]:g}]" if isinstance(given, tuple) else f"{given:g}"


def reflected(length: int, shift: int) -> npt.NDArray[np.int64]:
    """Where each of `length` places takes its value from once all is moved on by `shift`, less than `length`: what
    comes in at one end is the mirror image there, the end itself not repeated."""
    mirrored = np.abs(np.arange(length) - shift)
    places: npt.NDArray[np.int64] = (length - 1) - np.abs((length - 1) - mirrored)
    return places
