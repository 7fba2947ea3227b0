"""Recordings as they were dealt out to splits, kept in the cache until one of their files changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infomax_cli.core.api import ArrayCache, DataError, audio_info
from infomax_plugins.datasets._columns import Columns, Recordings, Tags, Texts
from infomax_plugins.datasets._recordings import stamps_of

_Arrays = Mapping[str, NDArray[Any]]
_VERSION = "1"  # of what is kept: raise it with every change of that, or of how splits are drawn


@dataclass(frozen=True)
class Dealt:
    """All that can be used by split; why a split may be empty; by id what is wrong with the rest, and its paths."""

    splits: Mapping[str, Recordings]
    why: Mapping[str, str]
    left_out: Mapping[str, str]
    unread: Sequence[str]

    @property
    def count(self) -> int:
        return sum(map(len, self.splits.values())) + len(self.left_out)


def recall(key: Sequence[Any], make: Callable[[], Dealt]) -> Dealt:
    """What `make()` returned for this key before, where all files still have the size and the time that they had, and
    none can be read now that could not be read then; else what it returns now."""
    cache = ArrayCache("recordings", [_VERSION, *key])
    kept = _unpack(cache.read())
    if kept is not None and not any(map(_is_readable, kept.unread)):
        return kept
    dealt = make()
    cache.write(_pack(dealt))
    return dealt


def _pack(dealt: Dealt) -> _Arrays:
    columns = next(iter(dealt.splits.values())).columns
    told = {
        "tags": [[name, *tags.values] for name, tags in columns.tags.items()],
        "splits": list(dealt.splits),
        "why": dict(dealt.why),
        "left_out": dict(dealt.left_out),
    }
    texts = {"ids": columns.ids, "paths": columns.paths, "aligned": columns.aligned, "unread": Texts.of(dealt.unread)}
    return {
        "told": np.frombuffer(json.dumps(told).encode(), dtype=np.uint8),
        "numbers": columns.numbers,
        **{name: text.packed for name, text in texts.items()},
        **{f"tags{place}": tags.codes for place, tags in enumerate(columns.tags.values())},
        **{f"split{place}": split.places for place, split in enumerate(dealt.splits.values())},
    }


def _unpack(arrays: _Arrays | None) -> Dealt | None:
    """None where there is nothing, or a file has changed since."""
    if arrays is None:
        return None
    paths = Texts(arrays["paths"])
    if not np.array_equal(stamps_of(paths.to_list()), arrays["numbers"][:, 3:]):
        return None
    told = json.loads(arrays["told"].tobytes())
    tags = {name: Tags(values, arrays[f"tags{place}"]) for place, (name, *values) in enumerate(told["tags"])}
    columns = Columns(Texts(arrays["ids"]), paths, Texts(arrays["aligned"]), tags, arrays["numbers"])
    splits = {name: Recordings(columns, arrays[f"split{place}"]) for place, name in enumerate(told["splits"])}
    return Dealt(splits, told["why"], told["left_out"], Texts(arrays["unread"]).to_list())


def _is_readable(path: str) -> bool:
    try:
        audio_info(path)
    except DataError:
        return False
    return True
