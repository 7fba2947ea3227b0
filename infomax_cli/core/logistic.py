"""Multinomial logistic regression at its optimum, fast: the features are whitened, then L-BFGS sees all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-6  # of the largest variance: what varies less than this is rounding, not signal
_ROWS = 2**15  # rows whose logits are held at once


@dataclass(frozen=True)
class Whitening:
    """``(x - mean) @ matrix``: uncorrelated components of variance 1, ``(N, D)`` to ``(N, R)``."""

    mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, x: Tensor, floor: float = FLOOR) -> Whitening:
        """Principal components of `x`, each divided by its deviation; those below ``floor * largest`` are left out."""
        mean = x.mean(0)
        covariance = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        for part in x.split(_ROWS):  # type: ignore[no-untyped-call]
            centred = part - mean
            covariance += (centred.T @ centred).double().cpu()
        values, vectors = torch.linalg.eigh(covariance / len(x))
        kept = values > max(floor * float(values.max()), 1e-20)
        matrix = vectors[:, kept] / values[kept].sqrt()
        return cls(mean, matrix.to(x))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.matrix


@dataclass(frozen=True)
class Logistic:
    """Weights ``(K, D)`` and biases ``(K,)`` that minimise ``mean cross-entropy + l2 / 2 * |weight|²``; `loss` is that
    minimum, `steps` the evaluations that it took."""

    weight: Tensor
    bias: Tensor
    l2: float
    loss: float
    steps: int
    converged: bool

    def logits(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight.T)

    def predict(self, x: Tensor) -> Tensor:
        """The likeliest class of each row, ``(N,)``."""
        parts = [self.logits(part).argmax(1) for part in x.split(_ROWS)]  # type: ignore[no-untyped-call]
        return torch.cat(parts)


def fit_logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    l2: float,
    *,
    start: Logistic | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
) -> Logistic:
    """The optimum for rows `x` ``(N, D)`` and classes `y` ``(N,)``, from `start` or from zero.

    Biases are not penalised. scikit-learn's ``C`` is ``1 / (l2 * N)``. It has converged when no component of the
    gradient exceeds `tolerance`.
    """
    theta = x.new_zeros(classes, x.shape[1] + 1) if start is None else torch.column_stack([start.weight, start.bias])
    theta.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=max_steps,
        max_eval=2 * max_steps,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        loss, theta.grad = _loss_and_gradient(x, y, theta, l2)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        loss, gradient = _loss_and_gradient(x, y, theta, l2)
    weights = theta.detach()
    steps = int(optimizer.state[theta]["func_evals"])
    converged = bool(gradient.abs().max() <= 10 * tolerance)
    return Logistic(weights[:, :-1], weights[:, -1], l2, float(loss), steps, converged)


def _loss_and_gradient(x: Tensor, y: Tensor, theta: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """The penalised mean cross-entropy and its gradient ``(K, D + 1)``, a part of the rows at a time."""
    weight, bias = theta[:, :-1], theta[:, -1]
    total = theta.new_zeros(())
    gradient = torch.zeros_like(theta)
    for rows, classes in zip(x.split(_ROWS), y.split(_ROWS), strict=True):  # type: ignore[no-untyped-call]
        log_p = torch.addmm(bias, rows, weight.T).log_softmax(1)
        total -= log_p.gather(1, classes.unsqueeze(1)).sum()
        residual = log_p.exp_()
        residual[torch.arange(len(classes), device=x.device), classes] -= 1
        gradient[:, :-1].addmm_(residual.T, rows)
        gradient[:, -1] += residual.sum(0)
    gradient /= len(x)
    gradient[:, :-1] += l2 * weight
    return total / len(x) + 0.5 * l2 * weight.square().sum(), gradient
