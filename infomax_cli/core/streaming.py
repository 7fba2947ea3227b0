"""Encoding sound of any length in bounded memory, with the result of one pass over the whole.

Stages that see only so far are run on pieces that overlap by what their frames see; of each piece those frames are kept
that do not touch its ends. A context stage goes on from the state that the piece before left. Whether an encoder can be
run so is tried out on noise, since a stranger's stage may look anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infomax_cli.core.api import Axis, Gaussian, Resumable
from infomax_cli.core.blocks import encode, encode_head
from infomax_cli.core.pretrained import PretrainedEncoder
from infomax_cli.errors import InfomaxError
from infomax_cli.recipe import SamplingOptions

PIECE_SECONDS = 10
WHOLE_SECONDS = 600  # what cannot be run in pieces is encoded whole up to this length
TOLERANCE = 1e-4  # relative to the largest value

Reader = Callable[[int, int], Tensor]
"""Samples `start` to `stop` of the raw input, ``(1, C, stop - start)``."""


class CannotStream(InfomaxError):  # noqa: N818
    """The encoder makes frames of the whole input only; the message says which stage, and why."""


@dataclass(frozen=True)
class _Plan:
    """Frames of samples ``[k piece, (k + 1) piece)`` are made of `before` samples more, and `after` more.

    The first `head` stages see only so far; those after them are contexts. `axes` are the time axes of all.
    """

    head: int
    axes: tuple[Axis, ...]
    dims: tuple[int, ...]
    step: int
    before: int
    after: int


class Streamer:
    """Encodes raw sound by pieces, at the `depths` of an encoder. Only in evaluation mode, and without gradient."""

    def __init__(self, model: PretrainedEncoder, depths: Sequence[int]) -> None:
        self.model = model.eval()
        self.depths = tuple(depths)
        self._plan: _Plan | CannotStream | None = None

    def maps(self, read: Reader, total: int) -> Iterator[tuple[Tensor, ...]]:
        """The maps ``(C, *grid)`` of each depth, piece after piece of time; all of an image at once.

        Raises `CannotStream` where the input is too long to be encoded whole and the encoder must see it so.
        """
        rate = self.model.sample_rate
        if rate is None or total <= PIECE_SECONDS * rate:
            yield self._whole(read, total)
            return
        plan = self._planned()
        if isinstance(plan, _Plan):
            piece = max(1, PIECE_SECONDS * rate // plan.step) * plan.step
            yield from self._pieces(plan, read, total, piece)
        elif total <= WHOLE_SECONDS * rate:
            yield self._whole(read, total)
        else:
            raise plan

    @torch.no_grad()
    def _whole(self, read: Reader, total: int) -> tuple[Tensor, ...]:
        maps = encode(self.model.encoder, self._moved(read(0, total)), SamplingOptions(), max(self.depths))
        return tuple(maps[depth][0] for depth in self.depths)

    def _pieces(self, plan: _Plan, read: Reader, total: int, piece: int) -> Iterator[tuple[Tensor, ...]]:
        states: list[Any] = [None] * (max(self.depths) + 1)
        start, ended = 0, False
        while not ended:
            ended = start + piece + plan.after >= total
            first = max(0, start - plan.before)
            stop = total if ended else start + piece + plan.after
            maps = self._piece(plan, read(first, stop), start - first, None if ended else piece, states)
            yield tuple(maps[depth][0] for depth in self.depths)
            start += piece

    @torch.no_grad()
    def _piece(self, plan: _Plan, x: Tensor, skip: int, length: int | None, states: list[Any]) -> list[Tensor]:
        """The frames of `length` samples (None: of all) after the first `skip`; `states` are gone on from."""
        encoder = self.model.encoder
        readouts, y = encode_head(encoder, self._moved(x), plan.head)

        def own(values: Tensor, place: int) -> Tensor:
            hop = plan.axes[place].hop
            count = values.shape[plan.dims[place]] - skip // hop if length is None else length // hop
            return values.narrow(plan.dims[place], skip // hop, count)

        maps = [own(values, place) for place, values in enumerate(readouts)]
        for index in range(plan.head, max(self.depths) + 1):
            if index == plan.head:
                y = own(y, plan.head - 1)
            y, states[index] = encoder.stages[index].resume(y, states[index])
            y = y.mean if isinstance(y, Gaussian) else y
            maps.append(encoder.readout(y, index))
        return maps

    def _moved(self, x: Tensor) -> Tensor:
        return self.model.inputs.batch(x, None, self.model.like())

    # --- whether it can be done ---------------------------------------------------------------------------------------

    def _planned(self) -> _Plan | CannotStream:
        """Found once."""
        if self._plan is None:
            try:
                plan = self._make_plan()
                self._try(plan)
                self._plan = plan
            except CannotStream as reason:
                self._plan = reason
        return self._plan

    def _make_plan(self) -> _Plan:
        encoder, last = self.model.encoder, max(self.depths)
        contexts = [bool(getattr(stage, "is_context", False)) for stage in encoder.stages][: last + 1]
        head = contexts.index(True) if any(contexts) else len(contexts)
        for index in range(head, last + 1):
            if not isinstance(encoder.stages[index], Resumable):
                raise _refusal(index, "reads all that came before it, and cannot go on from a state")
        axes, dims = [], []
        for depth in self.model.depths[:head]:
            places = [place for place, axis in enumerate(depth.axes) if axis.name == "time"]
            if not places:
                raise _refusal(depth.index, "makes no frames in time")
            axes.append(depth.axes[places[0]])
            dims.append(places[0] + 2)
        if not axes:
            raise _refusal(0, "reads the samples themselves as a context")
        step = math.lcm(*(axis.hop for axis in axes))
        # by what the deepest frames see: an encoder may take nothing shorter, whatever depth is wanted
        deepest = [axis for depth in self.model.depths for axis in depth.axes if axis.name == "time"]
        before = max((axis.field - 1) / 2 - axis.centre for axis in deepest)
        after = max((axis.field - 1) / 2 + axis.centre + 1 - axis.hop for axis in deepest)
        return _Plan(head, tuple(axes), tuple(dims), step, _margin(before, step), _margin(after, step))

    def _try(self, plan: _Plan) -> None:
        """Compare pieces of noise with the whole of it; raises `CannotStream` where they differ."""
        piece = -(-plan.before // plan.step) * plan.step + plan.step
        total = 3 * piece + plan.before + plan.after + plan.step // 2
        noise = 0.1 * torch.randn(1, self.model.inputs.channels, total, generator=torch.Generator().manual_seed(0))

        def read(start: int, stop: int) -> Tensor:
            return noise[..., start:stop]

        try:
            whole = self._whole(read, total)
            pieces = list(self._pieces(plan, read, total, piece))
        except (InfomaxError, RuntimeError) as error:
            raise CannotStream(f"the encoder takes no pieces of sound: {str(error).splitlines()[0]}", _HINT) from error
        for place, depth in enumerate(self.depths):
            time = plan.dims[min(depth, plan.head - 1)] - 1  # a context has the layout of what it reads
            joined = torch.cat([maps[place] for maps in pieces], time)
            scale = whole[place].abs().max().clamp(min=1e-6)
            if joined.shape != whole[place].shape or not (joined - whole[place]).abs().max() <= TOLERANCE * scale:
                raise _refusal(depth, "depends on more of the sound than its geometry tells")


def _margin(samples: float, step: int) -> int:
    """Rounded up to whole steps, and one more."""
    return (max(0, math.ceil(samples / step)) + 1) * step


_HINT = f"split such sound into pieces of at most {WHOLE_SECONDS // 60} minutes, or take a lower --depth"


def _refusal(stage: int, why: str) -> CannotStream:
    return CannotStream(f"it is too long to be encoded whole, and in pieces it cannot be: depth {stage} {why}", _HINT)
