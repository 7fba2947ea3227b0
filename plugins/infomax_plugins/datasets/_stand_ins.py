"""What is done about files that turn out to be corrupt when they are decoded, in the middle of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from infomax_cli.core.api import CorruptItem, DataError, Item, numpy_generator
from infomax_plugins.datasets._recordings import allowed, corrupt_hint

_ATTEMPTS = 100  # items tried in place of one that cannot be decoded
_log = logging.getLogger("infomax")


class StandIns:
    """Takes another item of a split where one cannot be decoded.

    A corrupt file, one of so many `files` of a `kind`, is named once. Asked for without a seed its item raises
    `CorruptItem`. With a seed another of the `items`, drawn from (index, seed), takes its place, and which depends on
    nothing that was read before, so that neither the number of loader workers nor a resumed run changes it. More than
    the share `max_corrupt` of the files (`allowed`), counted over all loader processes, raises `DataError`.
    """

    def __init__(self, kind: str, items: int, files: int, max_corrupt: float) -> None:
        self.kind, self.items, self.max_corrupt = kind, items, max_corrupt
        # in memory that loader processes share, so that what one of them finds corrupt counts for all
        self.corrupt: Tensor = torch.zeros(files, dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def take(self, index: int, seed: int | None, read: Callable[[int], Item], file_of: Callable[[int], int]) -> Item:
        """What `read` makes of the item, or of what takes its place; `file_of` says in which file an item lies."""
        for candidate in self._candidates(index, seed):
            try:
                return read(candidate)
            except DataError as error:
                consequence = "it is left out" if seed is None else f"other {self.kind} take its place"
                self._note(file_of(candidate), error, consequence)
                if seed is None:
                    raise CorruptItem(error.message, error.hint) from error
        raise DataError(f"none of {_ATTEMPTS} {self.kind} tried can be decoded", corrupt_hint(self.max_corrupt))

    def _candidates(self, index: int, seed: int | None) -> Iterator[int]:
        """The item, and what takes its place where it is corrupt."""
        yield index
        if seed is None:
            return
        place = numpy_generator("replacement", index, seed)
        for _ in range(_ATTEMPTS - 1):
            yield int(place.integers(self.items))

    def _note(self, file: int, error: DataError, consequence: str) -> None:
        if self.corrupt[file]:
            return
        self.corrupt[file] = True
        count, files = int(self.corrupt.sum()), len(self.corrupt)
        if count > allowed(self.max_corrupt, files):
            raise DataError(
                f"{count} of {files} {self.kind} turned out to be corrupt, lastly: {error.message}",
                corrupt_hint(self.max_corrupt),
            ) from error
        _log.warning("%s; %s", error.message, consequence)
