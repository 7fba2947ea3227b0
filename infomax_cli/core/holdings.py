"""What a dataset holds: counted from listings, headers and labels alone, or by reading every item."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from infomax_cli import registry
from infomax_cli.core.api import Dataset, DataSpec, InfomaxError, Item, LabelSpec, PluginError, Split, SplitFacts
from infomax_cli.wording import describe_error

T = TypeVar("T")
_log = logging.getLogger("infomax")


@dataclass(frozen=True)
class SplitHoldings:
    """What one split holds. What nobody could say without decoding, and was not decoded, is None or not there.

    `counts` are the items, or the aligned values, of each class of a label; `unknown` are the items whose value of a
    whole-item label is unknown. `corrupt` says what is wrong with the items that could not be read (None: not tried).
    """

    items: int
    seconds: float | None
    rates: Mapping[int, int]
    counts: Mapping[str, Sequence[int]]
    unknown: Mapping[str, int]
    corrupt: Sequence[str] | None = None

    def classes(self, label: str) -> int | None:
        """How many classes of a label occur."""
        return sum(count > 0 for count in self.counts[label]) if label in self.counts else None


@dataclass(frozen=True)
class Holdings:
    """What a dataset holds. `found_in` is the folder or file that it was read from, if it was read from any; `left_out`
    is what was found and cannot be used, and why."""

    data: DataSpec
    found_in: Path | None
    splits: Mapping[str, SplitHoldings]
    left_out: Mapping[str, str]

    @property
    def problems(self) -> list[str]:
        """All that is wrong, each once."""
        found = [problem for split in self.splits.values() for problem in split.corrupt or ()]
        return list(dict.fromkeys([*self.left_out.values(), *found]))

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        labels = {name: asdict(spec) | {"aligned": spec.aligned} for name, spec in self.data.labels.items()}
        return {
            "found_in": None if self.found_in is None else str(self.found_in),
            "channels": self.data.channels,
            "grid": list(self.data.grid),
            "axes": list(self.data.axes),
            "rate": self.data.rate,
            "labels": labels,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "left_out": dict(self.left_out),
        }


class Watch(Protocol):
    """Who is told of a check, item by item."""

    def stage(self, what: str, total: int) -> None: ...

    def advance(self) -> None: ...


class _Nobody:
    def stage(self, what: str, total: int) -> None: ...

    def advance(self) -> None: ...


def take_stock(dataset: Dataset, name: str, root: Path, *, check: bool = False, watch: Watch | None = None) -> Holdings:
    """What `dataset`, called `name`, holds under `root`; with `check` every item is read as a whole.

    Raises `DataError` where it is not there, `PluginError` where it breaks its contract.
    """
    told = watch or _Nobody()
    data = _ask(name, lambda: dataset.describe(root))
    splits = {}
    for split_name in data.sizes:
        split = _ask(name, lambda split_name=split_name: dataset.split(root, split_name))  # type: ignore[misc]
        tally = None
        if check:
            told.stage(f"reading {split_name}", len(split))
            tally = _read_all(split, data.labels, told.advance)
        splits[split_name] = _ask(name, lambda split=split, tally=tally: _hold(split, data, tally))  # type: ignore[misc]
    left_out, found_in = getattr(dataset, "left_out", None), getattr(dataset, "found_in", None)
    return Holdings(
        data,
        root if found_in is None else _ask(name, lambda: found_in(root)),
        splits,
        {} if left_out is None else dict(_ask(name, lambda: left_out(root))),
    )


def _ask(name: str, question: Callable[[], T]) -> T:
    """A stranger's dataset may raise anything, and print what it likes."""
    try:
        with registry.contained():
            return question()
    except (InfomaxError, KeyboardInterrupt, MemoryError, PermissionError):
        raise
    except BaseException as error:
        raise PluginError(
            f"dataset {name} cannot say what it holds: {describe_error(error)}", "INFOMAX_DEBUG=1 shows where"
        ) from error


@dataclass
class _Tally:
    """What reading every item told."""

    corrupt: dict[str, None] = field(default_factory=dict)  # an ordered set
    samples: int = 0
    counts: dict[str, torch.Tensor] = field(default_factory=dict)


def _read_all(split: Split, labels: Mapping[str, LabelSpec], advance: Callable[[], None]) -> _Tally:
    aligned = {name: spec.classes for name, spec in labels.items() if spec.aligned}
    tally = _Tally(counts={name: torch.zeros(classes, dtype=torch.long) for name, classes in aligned.items()})
    with _unheard():
        for index in range(len(split)):
            item = _read(split, index)
            if isinstance(item, str):
                tally.corrupt[item] = None
            else:
                tally.samples += item.input.shape[-1]
                for name, classes in aligned.items():
                    values = torch.as_tensor(item.labels[name]).flatten()
                    tally.counts[name] += torch.bincount(values[values >= 0], minlength=classes)[:classes]
            advance()
    return tally


def _read(split: Split, index: int) -> Item | str:
    """An item as a whole, or why there is none."""
    try:
        with registry.contained():
            return split[index, None]
    except InfomaxError as error:
        # where a split refuses to go on, since too much of it is corrupt, its cause is this item's own error
        cause = error.__cause__
        return cause.message if isinstance(cause, InfomaxError) else error.message
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        return f"item {index}: {describe_error(error)}"


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Warnings of what will be told anyway are held back."""
    before = _log.level
    _log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _log.setLevel(before)


def _hold(split: Split, data: DataSpec, tally: _Tally | None) -> SplitHoldings:
    tell = getattr(split, "facts", None)
    facts: SplitFacts = SplitFacts() if tell is None else tell()
    counts: dict[str, Sequence[int]] = {}
    unknown: dict[str, int] = {}
    for name, spec in data.labels.items():
        if not spec.aligned:
            values = torch.as_tensor(list(split.item_labels(name)), dtype=torch.long)
            counts[name] = torch.bincount(values[values >= 0], minlength=spec.classes).tolist()
            unknown[name] = int((values < 0).sum())
        elif name in facts.counts:
            counts[name] = [*facts.counts[name], *[0] * (spec.classes - len(facts.counts[name]))]
        elif tally is not None:
            counts[name] = tally.counts[name].tolist()
    samples = sum(facts.lengths) if len(facts.lengths) else tally.samples if tally else None
    return SplitHoldings(
        items=len(split),
        seconds=samples / data.rate if samples is not None and data.rate else None,
        rates=dict(sorted(facts.rates.items())),
        counts=counts,
        unknown=unknown,
        corrupt=None if tally is None else tuple(tally.corrupt),
    )
