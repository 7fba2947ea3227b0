"""The pull of latent spaces towards a standard normal: Variational Greedy InfoMax (Smooth-InfoMax, Denoodt et al.)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from infomax_cli.core.api import Batch, BlockSpec, DoesNotFit, Features, Gaussian, InfomaxError, LossOutput

from ._scoring import at_least_float

ACTIVE = 0.01  # nats: a unit whose KL is below this has all but become the prior


class StandardNormalKL(nn.Module):
    """The pull of every Gaussian that the block makes towards a standard normal: KL(q(z | x) || N(0, I)).

    Of several Gaussians, and of several views, it is the mean (Kingma & Welling 2014, appendix B).

    Weigh it against the block's other losses with the entry's `weight`.

    Terms: ``kl``. Watched, in training as in validation: ``nats``, the KL of a frame (position) summed over units and
    averaged over frames, whatever the options; ``active``, the number of units whose own KL exceeds 0.01 nat; and
    ``units``, the KL of each unit ``(C,)``, a histogram in TensorBoard.

    Args:
        spec: the block, of which at least one stage must return a Gaussian.
        reduction: ``frame`` sums over units and averages over items and frames, so that neither the length of a crop
            nor the batch changes the term. ``published`` sums over frames and averages over items and units, as the
            published code does: the term grows with the crop.
        free_bits: nats a unit that cost nothing: ``max(free_bits, KL)`` a unit, of the mean over the batch (Kingma et
            al. 2016, equation 15). Only with ``reduction: frame``.
        warmup: batches in which the term's weight rises in a line from 0 (Bowman et al. 2016); 0 for none.

    Raises:
        DoesNotFit: no stage of the block returns a Gaussian.
    """

    seen: Tensor

    def __init__(
        self,
        spec: BlockSpec,
        *,
        reduction: Literal["frame", "published"] = "frame",
        free_bits: float = 0.0,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        if not spec.posteriors:
            raise DoesNotFit(
                f"kl needs a stage that returns a Gaussian, and block {spec.index} has none",
                "make a stage variational (speech_conv: encoder.variational=[1,3,4]), or name the blocks with it",
            )
        if free_bits < 0:
            raise InfomaxError(f"kl: free_bits is {free_bits}, but must be at least 0")
        if free_bits > 0 and reduction == "published":
            raise InfomaxError("kl: free_bits goes with reduction: frame alone")
        if warmup < 0:
            raise InfomaxError(f"kl: warmup is {warmup}, but must be at least 0")
        self.reduction, self.free_bits, self.warmup = reduction, free_bits, warmup
        self.register_buffer(
            "seen", torch.zeros((), dtype=torch.int64)
        )  # batches; saved, so that a resumed run goes on

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        posteriors = [posterior for features in views for posterior in features.posteriors]
        with torch.autocast(posteriors[0].mean.device.type, enabled=False):
            kls = [Gaussian(at_least_float(p.mean), at_least_float(p.logvar)).kl() for p in posteriors]
            term = torch.stack([self._reduce(kl) for kl in kls]).mean()
        if self.warmup:
            term = term * (self.seen / self.warmup).clamp(max=1.0)
        if self.training:
            self.seen += 1
        units = [per_unit(kl.detach()) for kl in kls]
        watched = {
            "nats": torch.stack([unit.sum() for unit in units]).mean(),
            "active": torch.stack([(unit > ACTIVE).sum() for unit in units]).float().mean(),
        }
        if len({len(unit) for unit in units}) == 1:
            watched["units"] = torch.stack(units).mean(0)
        return LossOutput(terms={"kl": term}, watched=watched)

    def _reduce(self, kl: Tensor) -> Tensor:
        """``(B, C, *grid)`` to a scalar."""
        if self.reduction == "published":
            return kl.flatten(2).sum(2).mean()
        return per_unit(kl).clamp_min(self.free_bits).sum()


def per_unit(kl: Tensor) -> Tensor:
    """``(B, C, *grid)`` to the mean of each unit, ``(C,)``."""
    return kl.transpose(0, 1).flatten(1).mean(1)
