"""Classifiers that are trained step by step on vectors: as monitors beside an encoder's training, and by published
protocols on a frozen encoder."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Head = Literal["linear", "mlp", "dim", "amdim"]

WIDTHS = {"mlp": 512, "dim": 200, "amdim": 1024}  # of the hidden layer, where none is asked for


def make_head(head: Head, inputs: int, classes: int, hidden: int | None = None) -> nn.Module:
    """Vectors ``(N, inputs)`` to logits ``(N, classes)``.

    ``linear``: one layer. ``mlp``: a hidden layer of ReLUs. ``dim``: that of Deep InfoMax, 200 units with dropout 0.1,
    batch norm and ReLU. ``amdim``: AMDIM's, dropout 0.2, 1024 units without bias, batch norm, ReLU, dropout 0.2.
    """
    if head == "linear":
        return nn.Linear(inputs, classes)
    width = hidden or WIDTHS[head]
    if head == "mlp":
        return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))
    if head == "dim":
        return nn.Sequential(
            nn.Linear(inputs, width), nn.Dropout(0.1), _Norm(width), nn.ReLU(), nn.Linear(width, classes)
        )
    return nn.Sequential(
        nn.Dropout(0.2),
        nn.Linear(inputs, width, bias=False),
        _Norm(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(width, classes),
    )


def squash_logits(logits: Tensor, limit: float | None) -> Tensor:
    """``limit * tanh(logits / limit)``: logits that no vector can drive beyond ±`limit`, as AMDIM clips its heads'."""
    return logits if limit is None else limit * (logits / limit).tanh()


class _Norm(nn.BatchNorm1d):
    """A single vector has no deviation of its own: it is normalised by those met before."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        normalised: Tensor = super().forward(x)
        return normalised
