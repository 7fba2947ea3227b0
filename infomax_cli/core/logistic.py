"""Multinomial logistic regression at its optimum, fast: the features are whitened, then L-BFGS sees all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-6  # of the largest variance: what varies less than this is rounding, not signal
_ROWS = 2**15  # rows whose logits are held at once


@dataclass(frozen=True)
class Whitening:
    """``(x - mean) @ matrix``: uncorrelated components of variance 1, ``(N, D)`` to ``(N, R)``.

    `variances` ``(R,)`` are what those components had of the features brought to variance 1 each.
    """

    mean: Tensor
    matrix: Tensor
    variances: Tensor

    @classmethod
    def fit(cls, x: Tensor, floor: float = FLOOR) -> Whitening:
        """Principal components of the standardised `x`, each divided by its deviation; those whose variance is below
        ``floor * largest`` are left out."""
        mean = x.mean(0)
        covariance = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        for part in x.split(_ROWS):  # type: ignore[no-untyped-call]
            centred = (part - mean).cpu().double()
            covariance += centred.T @ centred
        covariance /= len(x)
        deviation = covariance.diagonal().sqrt()
        alive = deviation > 1e-6 * deviation.max()
        deviation = torch.where(alive, deviation, torch.inf)
        values, vectors = torch.linalg.eigh(covariance / torch.outer(deviation, deviation))
        kept = values > max(floor * float(values.max()), 1e-12)
        matrix = vectors[:, kept] / values[kept].sqrt() / deviation.unsqueeze(1)
        return cls(mean, matrix.to(x), values[kept].to(x))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.matrix


@dataclass(frozen=True)
class Logistic:
    """Weights ``(K, D)`` and biases ``(K,)`` at the optimum; `loss` is its value, `steps` the evaluations it took."""

    weight: Tensor
    bias: Tensor
    loss: float
    steps: int
    converged: bool

    def predict(self, x: Tensor) -> Tensor:
        """The likeliest class of each row, ``(N,)``."""
        parts = [torch.addmm(self.bias, part, self.weight.T).argmax(1) for part in x.split(_ROWS)]  # type: ignore[no-untyped-call]
        return torch.cat(parts)


def fit_logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    l2: float | Tensor,
    *,
    start: Logistic | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 1000,
) -> Logistic:
    """Minimise ``mean cross-entropy + 1/2 * sum(l2 * weight²)`` for rows `x` ``(N, D)`` and classes `y` ``(N,)``.

    `l2` is one strength, or one for each feature ``(D,)``; biases are not penalised. scikit-learn's ``C`` is
    ``1 / (l2 * N)``. It has converged when no component of the gradient exceeds `tolerance`.
    """
    l2 = torch.as_tensor(l2, dtype=x.dtype, device=x.device).expand(x.shape[1])
    # of whitened features the loss curves by about as much in each direction, the penalty by l2: even them out
    scale = torch.cat([(1 + l2).rsqrt(), l2.new_ones(1)])
    penalty = torch.cat([l2, l2.new_zeros(1)])
    if start is None:  # the optimum of the strongest penalty
        bias = (y.bincount(minlength=classes).clamp_min(1) / len(y)).log().to(x)
        start = Logistic(x.new_zeros(classes, x.shape[1]), bias, 0.0, 0, converged=False)
    theta = (torch.column_stack([start.weight, start.bias]) / scale).requires_grad_(True)
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
        loss, gradient = _loss_and_gradient(x, y, theta * scale, penalty)
        theta.grad = gradient * scale
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    loss = float(closure())
    converged = theta.grad is not None and bool(theta.grad.abs().max() <= tolerance)
    weights = (theta * scale).detach()
    steps = int(optimizer.state[theta]["func_evals"])
    return Logistic(weights[:, :-1], weights[:, -1], loss, steps, converged)


def _loss_and_gradient(x: Tensor, y: Tensor, theta: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
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
    gradient = gradient / len(x) + penalty * theta
    return total / len(x) + 0.5 * (penalty * theta.square()).sum(), gradient
