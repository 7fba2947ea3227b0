"""What goes wrong, in words that a user can act on.

    InfomaxError            exit 1   something failed while doing what was asked
    ├── UsageError          exit 2   what was asked does not make sense
    │   ├── RecipeError              a recipe or an override is wrong
    │   └── DoesNotFit               a loss cannot work on a block; refused before any data is read
    ├── PluginError                  a plugin is missing its dependencies, raises on import, or breaks its contract
    ├── DataError                    data is missing, empty or corrupt
    │   └── CorruptItem              one item cannot be read; whoever goes through a split leaves it out
    ├── CheckpointError              a run or a checkpoint cannot be read or written
    ├── Diverged                     a loss is no longer finite
    └── Interrupted         exit 130 stopped by the user, after saving

Only ``infomax_cli.main`` catches them: it prints ``message`` and, below it, ``hint``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class InfomaxError(Exception):
    """One clear line on what failed and where (`message`), and one on what to do about it (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(InfomaxError):
    exit_code = 2


class RecipeError(UsageError):
    pass


class DoesNotFit(UsageError):  # noqa: N818 - reads as the sentence that it is
    """Raised by a loss's constructor when its block lacks what the loss needs (a label, a context, a grid)."""


class PluginError(InfomaxError):
    pass


class DataError(InfomaxError):
    pass


class CorruptItem(DataError):  # noqa: N818
    """Raised by a split for a whole item, ``split[index, None]``, that cannot be decoded."""


class CheckpointError(InfomaxError):
    pass


class Diverged(InfomaxError):  # noqa: N818
    pass


class Interrupted(InfomaxError):  # noqa: N818
    exit_code = 130


@contextlib.contextmanager
def blaming_settings() -> Iterator[None]:
    """Around what sees nothing but settings: whatever refuses them without saying more is told that they are wrong."""
    try:
        yield
    except InfomaxError as error:
        if type(error) is InfomaxError:
            raise RecipeError(error.message, error.hint) from error
        raise
