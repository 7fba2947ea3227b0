"""Multinomial logistic regression at its optimum, fast: the features are whitened, then L-BFGS sees all of them.

Those that are too many for that are streamed in minibatches, from the optimum of a sample on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-6  # of the largest variance: what varies less than this is rounding, not signal
_ROWS = 2**12  # rows whose logits are held at once, so that they stay in the cache
_EPOCHS, _STEPS = 3, 4000  # in minibatches: over all rows, but at least so many steps
_BATCH = 1024
_RATE = 0.3  # of a step in minibatches, as a share of Newton's
_CAUTION = 4.0  # rows of a class, in a batch, that are worth a full step; curvatures are not believed to be smaller


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

    @property
    def dims(self) -> int:
        """How many components are left."""
        return self.matrix.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.matrix


@dataclass(frozen=True)
class Logistic:
    """Weights ``(K, D)`` and biases ``(K,)`` at the optimum; `loss` is its value, `steps` the evaluations, or the
    minibatches, that it took."""

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
    tolerance: float = 3e-4,
    max_steps: int = 1000,
) -> Logistic:
    """Minimise ``mean cross-entropy + 1/2 * sum(l2 * weight²)`` for rows `x` ``(N, D)`` and classes `y` ``(N,)``.

    `l2` is one strength, or one for each feature ``(D,)``; biases are not penalised. scikit-learn's ``C`` is
    ``1 / (l2 * N)``. It has converged when no component of the gradient, scaled as below,
    exceeds `tolerance`: by default the loss is then about 1e-4 above its least.
    """
    l2 = torch.as_tensor(l2, dtype=x.dtype, device=x.device).expand(x.shape[1])
    penalty = torch.cat([l2, l2.new_zeros(1)])
    if start is None:  # the optimum of the strongest penalty
        bias = (y.bincount(minlength=classes).clamp_min(1) / len(y)).log().to(x)
        start = Logistic(x.new_zeros(classes, x.shape[1]), bias, 0.0, 0, converged=False)
    begin = torch.column_stack([start.weight, start.bias])
    # weights of a rare class hardly curve the loss: even that out, but half-way, for such gradients are mostly noise
    scale = (_curvature(x[:: 1 + len(x) // _ROWS], begin) + penalty + _CAUTION / _BATCH).pow(-0.25)
    theta = (begin / scale).requires_grad_(True)
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
        loss, gradient = _loss_and_gradient(x, y, _centred(theta * scale), penalty)
        theta.grad = _centred(gradient) * scale
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    loss = float(closure())
    converged = theta.grad is not None and bool(theta.grad.abs().max() <= tolerance)
    weights = _centred(theta.detach() * scale)
    steps = int(optimizer.state[theta]["func_evals"])
    return Logistic(weights[:, :-1], weights[:, -1], loss, steps, converged)


def _centred(theta: Tensor) -> Tensor:
    """Without what all classes share, which tells none of them from another: along that the loss is all but flat."""
    return theta - theta.mean(0)


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


def fit_minibatches(
    epoch: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    rows: int,
    sample: Tensor,
    l2: Tensor,
    *,
    start: Logistic,
) -> Logistic:
    """What `fit_logistic` minimises, for more rows than memory holds.

    Each call of `epoch` brings all `rows` once, in random order: features ``(n, D)`` and classes ``(n,)`` of many at a
    time. `start` is the optimum of a `sample` of those features ``(m, D)``, at which the curvature is measured. Each
    weight steps down its gradient, divided by its curvature; the steps shrink to nothing, and the mean over the last
    quarter of them is returned. `loss` is the mean of what was met on the way there.
    """
    theta = torch.column_stack([start.weight, start.bias])
    penalty = torch.cat([l2, l2.new_zeros(1)])
    # one batch says little of a class that it hardly holds
    speed = _RATE / (_curvature(sample, theta) + penalty + _CAUTION / _BATCH)
    epochs = max(_EPOCHS, -(-_STEPS * _BATCH // rows))
    mean, mean_loss, seen, steps, counted = torch.zeros_like(theta), theta.new_zeros(()), 0, 0, 0
    for x, y in _batches(epoch, epochs):
        loss, gradient = _loss_and_gradient(x, y, theta, penalty)
        left = 1 - seen / (epochs * rows)
        theta -= left * len(x) / _BATCH * speed * gradient  # the last rows of a part may be few
        seen, steps = seen + len(x), steps + 1
        if left <= 0.25:
            counted += 1
            mean += (theta - mean) / counted
            mean_loss += (loss - mean_loss) / counted
    return Logistic(mean[:, :-1], mean[:, -1], float(mean_loss), steps, converged=False)


def _batches(epoch: Callable[[], Iterable[tuple[Tensor, Tensor]]], epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(epochs):
        for x, y in epoch():
            yield from zip(x.split(_BATCH), y.split(_BATCH), strict=True)  # type: ignore[no-untyped-call]


def _curvature(x: Tensor, theta: Tensor) -> Tensor:
    """The second derivative ``(K, D + 1)`` of the mean cross-entropy by each weight and bias alone."""
    curvature = torch.zeros_like(theta)
    for rows in x.split(_ROWS):  # type: ignore[no-untyped-call]
        p = torch.addmm(theta[:, -1], rows, theta[:, :-1].T).softmax(1)
        doubt = p * (1 - p)
        curvature[:, :-1].addmm_(doubt.T, rows.square())
        curvature[:, -1] += doubt.sum(0)
    return curvature / len(x)
