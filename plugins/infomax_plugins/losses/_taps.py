"""The local map and the global that Deep InfoMax compares, found in a block and read from its features."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import prod

import torch
from torch import Tensor

from infomax_cli.core.api import BlockSpec, DoesNotFit, Features, InfomaxError, MapSpec

from ._maps import Address, described, find_map
from ._scoring import at_least_float


@dataclass(frozen=True)
class Tap:
    """One of a block's maps, by index; with `pooled` its mean over the grid, one vector."""

    index: int
    map: MapSpec
    pooled: bool = False

    @property
    def channels(self) -> int:
        return self.map.channels

    @property
    def positions(self) -> int:
        """How many vectors `rows` gives of an item."""
        return 1 if self.pooled else prod(self.map.grid)

    def rows(self, features: Features) -> Tensor:
        """A vector for each position, ``(B, positions, C)``: a 1x1 convolution is a linear layer on them."""
        found = features.maps[self.index]
        found = found.reshape(*found.shape[:2], -1)  # (B, C, L)
        if self.pooled:
            found = at_least_float(found).mean(2, keepdim=True)
        return found.transpose(1, 2)

    def of_known_grid(self, features: Features, loss: str) -> Tensor:
        """The map ``(B, C, *grid)``, for a loss whose weights depend on its grid; `InfomaxError` on another grid."""
        found = features.maps[self.index]
        if found.shape[2:] != self.map.grid:
            raise InfomaxError(
                f"{loss} was built for a map of {_spelled(self.map.grid)}, but this batch makes one of "
                f"{_spelled(tuple(found.shape[2:]))}",
                "take items of one size",
            )
        return found


def find_taps(
    spec: BlockSpec, loss: str, local_map: Address | None, global_map: Address | None, *, global_learns: bool = False
) -> tuple[Tap, Tap]:
    """The local map and the global that a loss compares, by address or by default.

    Raises `DoesNotFit` where there are none, or where the block makes neither; with `global_learns`, which a term on
    the global alone asks for, also where it does not make the global.
    """
    local, summary = local_tap(spec, local_map, loss), global_tap(spec, global_map, loss)
    check_learns(spec, loss, local, summary)
    if global_learns:
        check_learns(spec, f"{loss}: act_penalty", summary)
    return local, summary


def local_tap(spec: BlockSpec, address: Address | None, loss: str) -> Tap:
    """The map at `address`; by default the last that has positions to tell apart, up to the block's target.

    The target comes before a context stage: what is local has not seen its neighbours through an autoregressor. Raises
    `DoesNotFit` where no map has more than one position.
    """
    if address is not None:
        return _tap(spec, find_map(spec, address, loss))
    spatial = [index for index, each in enumerate(spec.maps[: spec.target + 1]) if prod(each.grid) > 1]
    if not spatial:
        raise DoesNotFit(
            f"{loss} needs a local map, and block {spec.index} has none of more than one position",
            f"it has {described(spec.maps)}",
        )
    return _tap(spec, spatial[-1])


def global_tap(spec: BlockSpec, address: Address | None, loss: str) -> Tap:
    """The map at `address`, every position of it a global; by default the last map of one position, and in a block
    without such, as after a cut or on speech, the mean of its last map."""
    if address is not None:
        return _tap(spec, find_map(spec, address, loss))
    single = [index for index, each in enumerate(spec.maps) if prod(each.grid) == 1]
    return _tap(spec, single[-1]) if single else Tap(len(spec.maps) - 1, spec.output, pooled=True)


def check_learns(spec: BlockSpec, loss: str, *taps: Tap) -> None:
    """Raise `DoesNotFit` where all that a loss reads is the block's input, which the block does not make."""
    if not any(tap.index for tap in taps):
        raise DoesNotFit(
            f"{loss} would read nothing but the input of block {spec.index}, from which the block learns nothing",
            f"it has {described(spec.maps)}; name one from 1 on",
        )


def pairs_of_views(views: int) -> list[tuple[int, int]]:
    """Which view's local map is held against which view's global: its own, or with several views any other's."""
    return [(0, 0)] if views == 1 else list(permutations(range(views), 2))


def draw_positions(rows: Tensor, count: int | None) -> Tensor:
    """`count` of the rows ``(B, L, C)`` of each item, all different; all of them where there are no more."""
    items, positions, channels = rows.shape
    if count is None or count >= positions:
        return rows
    drawn = torch.rand(items, positions, device=rows.device).argsort(1)[:, :count]
    return rows.gather(1, drawn.unsqueeze(2).expand(-1, -1, channels))


def _tap(spec: BlockSpec, index: int) -> Tap:
    return Tap(index, spec.maps[index])


def _spelled(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid)) or "1"
