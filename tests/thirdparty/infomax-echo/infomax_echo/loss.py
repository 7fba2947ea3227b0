"""A loss without negatives: features that vary, each for itself, and slowly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Batch, BlockSpec, Features, LossOutput


class Decorrelate(nn.Module):
    """The variance and covariance terms of VICReg (Bardes, Ponce & LeCun 2022, eqs. 1 to 4), and slowness.

    Every position of the block's last map ``(B, C, *grid)`` is a sample of C features. `variance` weighs the hinge that
    keeps each feature's deviation at 1 or above, `covariance` the squared covariances of different features, and
    `slowness` the squared step from a frame to the next along the last axis (Wiskott & Sejnowski 2002). `project` adds
    a linear projection to so many features in front. Works on any block.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        variance: float = 1.0,
        covariance: float = 0.04,
        slowness: float = 1.0,
        project: int | None = None,
    ) -> None:
        super().__init__()
        self.weights = {"variance": variance, "covariance": covariance, "slowness": slowness}
        channels = spec.output.channels
        self.project = nn.Identity() if project is None else nn.Linear(channels, project)

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        per_view = [self._terms(view.output) for view in views]
        means = {name: torch.stack([terms[name] for terms in per_view]).mean() for name in per_view[0]}
        deviation = means.pop("deviation").detach()
        terms = {name: self.weights[name] * value for name, value in means.items()}
        return LossOutput(terms=terms, watched={"deviation": deviation})

    def _terms(self, output: Tensor) -> dict[str, Tensor]:
        features = self.project(output.movedim(1, -1))  # (B, *grid, C)
        features = features.to(torch.promote_types(features.dtype, torch.float32))  # squares overflow half precision
        samples = features.flatten(0, -2)  # (N, C)
        centred = samples - samples.mean(dim=0)
        covariances = centred.T @ centred / len(samples)  # (C, C)
        deviations = torch.sqrt(covariances.diagonal() + 1e-4)
        apart = covariances - torch.diag(covariances.diagonal())
        steps = features.diff(dim=-2).square()
        return {
            "variance": F.relu(1.0 - deviations).mean(),
            "covariance": apart.square().sum() / len(apart),
            "slowness": steps.mean() if steps.numel() else steps.sum(),  # a map of a single frame has no steps
            "deviation": deviations.mean(),
        }
