"""infomax: learn representations of speech and images by maximizing mutual information.

For code that uses a trained encoder: ``from infomax_cli import load``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infomax_cli.core.pretrained import PretrainedEncoder, load

__version__ = "0.1.0"
__all__ = ["PretrainedEncoder", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` and what it returns, imported with torch when they are first asked for."""
    if name in ("PretrainedEncoder", "load"):
        from infomax_cli.core import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
