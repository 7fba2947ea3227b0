"""What the losses of Deep InfoMax share beside their networks: checks, and the contrast of several views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infomax_cli.core.api import InfomaxError, LossOutput

from ._divergences import Measure, contrast, score_pairs
from ._scoring import at_least_float
from ._taps import pairs_of_views


def check_at_least(loss: str, least: int, **options: float | None) -> None:
    """Raise `InfomaxError` for the first of the options that is too small; None is no number."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise InfomaxError(f"{loss}: {name} is {value}, but must be at least {least}")


def check_batch(rows: Tensor, loss: str) -> None:
    """Raise `InfomaxError` where a batch has one item, so that there are no negatives."""
    if len(rows) < 2:
        raise InfomaxError(
            f"{loss} tells the items of a batch apart, but this batch has one", "take a train.batch of at least 2"
        )


def contrast_views(locals_: Sequence[Tensor], globals_: Sequence[Tensor], measure: Measure) -> LossOutput:
    """The contrast of each view's locals ``(B, L, D)`` with the globals ``(B, M, D)`` of its own, or of every other
    view, averaged."""
    judged = [
        contrast(score_pairs(locals_[one], globals_[other], measure), measure)
        for one, other in pairs_of_views(len(locals_))
    ]
    watched = {name: torch.stack([seen[name] for _, seen in judged]).mean() for name in judged[0][1]}
    return LossOutput({"contrast": torch.stack([value for value, _ in judged]).mean()}, watched)


def with_activation(output: LossOutput, globals_: Sequence[Tensor], weight: float) -> LossOutput:
    """`output` and, with a weight, a term for the squared norm of the encoder's globals ``(B, M, C)``."""
    if not weight:
        return output
    norms = torch.stack([at_least_float(rows).square().sum(-1).mean() for rows in globals_])
    return LossOutput({**output.terms, "activation": weight * norms.mean()}, output.watched)
