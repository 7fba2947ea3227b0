"""Which of a block's maps a loss speaks of."""

from __future__ import annotations

from infomax_cli.core.api import BlockSpec, DoesNotFit, MapSpec, UsageError

# an index into the block's maps (0 its input, -1 its last), or a grid such as "7x7" ("128" for time)
Address = int | str


def find_map(spec: BlockSpec, address: Address, loss: str) -> int:
    """The index of the map that `address` names: of several with that grid, the last, as AMDIM taps its encoder.

    Raises `DoesNotFit`, naming `loss` and what the block has, where there is none; `UsageError` for a malformed grid.
    """
    if isinstance(address, int):
        if not -len(spec.maps) <= address < len(spec.maps):
            raise DoesNotFit(f"{loss}: block {spec.index} has no map {address}", f"it has {described(spec.maps)}")
        return address % len(spec.maps)
    grid = _parsed(address, loss)
    found = [index for index, each in enumerate(spec.maps) if each.grid == grid]
    if not found:
        raise DoesNotFit(f"{loss}: block {spec.index} has no map of {address}", f"it has {described(spec.maps)}")
    return found[-1]


def described(maps: tuple[MapSpec, ...]) -> str:
    """The maps by index, for a message: ``0: 3@32x32, 1: 64@16x16``."""
    return ", ".join(f"{index}: {each.channels}@{'x'.join(map(str, each.grid))}" for index, each in enumerate(maps))


def _parsed(address: str, loss: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in address.split("x"))
    except ValueError:
        raise UsageError(
            f"{loss}: {address!r} names no map", "give an index such as -1, or a grid such as 7x7"
        ) from None
