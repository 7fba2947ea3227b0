"""From scores of pairs to a loss: lower bounds of divergences between pairs that belong together and pairs that do not.

An f-divergence is bounded from below by its Fenchel dual (Nguyen et al. 2010; Nowozin et al. 2016, f-GAN), for any
score ``u`` of pairs: ``D_f(P || Q) >= E_P[T(u)] - E_Q[f*(T(u))]``, P the joint distribution and Q the product of the
marginals. With ``r = dP / dQ`` a measure is

========  ========================  ========================  ==============  ==========================================
measure   E_P of                    E_Q of                    best u          bounds
========  ========================  ========================  ==============  ==========================================
jsd       ``log 2 - sp(-u)``        ``sp(u) - log 2``         ``log r``       twice the Jensen-Shannon divergence
gan       ``-sp(-u)``               ``sp(u)``                 ``log r``       the same less ``2 log 2``
kl        ``u``                     ``exp(u - 1)``            ``1 + log r``   KL(P || Q), the mutual information
rkl       ``-exp(-u)``              ``u - 1``                 ``log r``       KL(Q || P)
h2        ``1 - exp(-u)``           ``exp(u) - 1``            ``log(r) / 2``  squared Hellinger, ``2 - 2 E_Q[sqrt r]``
x2        ``u``                     ``(1 + u/2)_+^2 - 1``     ``2 (r - 1)``   Pearson's chi squared, ``E_Q[(r - 1)^2]``
========  ========================  ========================  ==============  ==========================================

(``sp`` is softplus). The published x2 has a term of the wrong sign, so that its loss has no minimum; here it is the
conjugate of ``f(r) = (r - 1)^2`` over ``r >= 0``: ``t^2 / 4 + t``, and -1 where ``t < -2``.

Three measures are no f-divergence. ``dv`` is the bound of Donsker and Varadhan on the mutual information,
``E_P[u] - log E_Q[exp u]``. ``nce`` is noise-contrastive: a softmax of each pair against those of the other items.
``w1`` is the difference of mean scores; published without a bound on its critic, it has no minimum. Here its scores are
cosines (`score_pairs`), a critic that is 1-Lipschitz in either embedding.

``exp(u)`` of a dot product of 2048 units overflows. In kl, rkl and h2 the critic is therefore reined in: it is ``u`` up
to `LIMIT` and grows as a logarmithm beyond, so that its exponential grows in a line. It is a critic still, so that the
bounds hold for any score, which with an exponential cut short they would not; unlike a clamp it has a gradient
everywhere; and below the limit, a density ratio of e^10, nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.core.api import stop_gradient

from ._scoring import at_least_float

Measure = Literal["jsd", "gan", "kl", "rkl", "h2", "x2", "dv", "w1", "nce"]

LIMIT = 10.0  # nats
_LOG_2 = math.log(2.0)


@dataclass(frozen=True)
class Divergence:
    """A bound ``mean positive(u) - mean negative(u)`` on a divergence less `shift`, elementwise in the scores."""

    positive: Callable[[Tensor], Tensor]
    negative: Callable[[Tensor], Tensor]
    shift: float = 0.0


def _rein_above(u: Tensor) -> Tensor:
    """`u`, growing as a logarithm above `LIMIT`."""
    return torch.where(u > LIMIT, LIMIT + torch.log1p(F.relu(u - LIMIT)), u)


def _rein_below(u: Tensor) -> Tensor:
    return -_rein_above(-u)


DIVERGENCES: Mapping[Measure, Divergence] = {
    "jsd": Divergence(lambda u: _LOG_2 - F.softplus(-u), lambda u: F.softplus(u) - _LOG_2),
    "gan": Divergence(lambda u: -F.softplus(-u), F.softplus, shift=2 * _LOG_2),
    "kl": Divergence(_rein_above, lambda u: torch.exp(_rein_above(u) - 1)),
    "rkl": Divergence(lambda u: -torch.exp(-_rein_below(u)), lambda u: _rein_below(u) - 1),
    "h2": Divergence(lambda u: 1 - torch.exp(-_rein_below(u)), lambda u: torch.exp(_rein_above(u)) - 1),
    "x2": Divergence(lambda u: u, lambda u: F.relu(1 + u / 2).square() - 1),
    "w1": Divergence(lambda u: u, lambda u: u),
}


def score_pairs(local: Tensor, summary: Tensor, measure: Measure) -> Tensor:
    """Scores of every global ``(N, M, D)`` with every location ``(N, L, D)``, ``(N, M, N, L)``, at least in fp32.

    Dot products; for w1 cosines.
    """
    with torch.autocast(local.device.type, enabled=False):
        local, summary = at_least_float(local), at_least_float(summary)
        if measure == "w1":
            local, summary = F.normalize(local, dim=-1), F.normalize(summary, dim=-1)
        scores = summary.flatten(0, 1) @ local.flatten(0, 1).t()  # (N M, N L)
        return scores.view(*summary.shape[:2], *local.shape[:2])


def contrast(scores: Tensor, measure: Measure) -> tuple[Tensor, dict[str, Tensor]]:
    """What is minimised, and what is watched, of scores ``(N, M, N, L)``: of M globals with L locations of N items, of
    which there must be two.

    Pairs within an item are positive, all others negative. Watched are ``accuracy``, the share of positives that score
    above every negative of their global; of kl, dv and nce ``bound``, in expectation at most the mutual information of
    a global and a location taken at random, in nats; of the others ``divergence``, which bounds their own.
    """
    if measure == "nce":
        value, bound = _noise_contrastive(scores)
    elif measure == "dv":
        value = _donsker_varadhan(scores)
        bound = -value
    else:
        value = _fenchel(scores, DIVERGENCES[measure])
        bound = DIVERGENCES[measure].shift - value
    name = "bound" if measure in ("kl", "dv", "nce") else "divergence"
    return value, {"accuracy": _accuracy(stop_gradient(scores)), name: stop_gradient(bound)}


def _fenchel(scores: Tensor, divergence: Divergence) -> Tensor:
    items = len(scores)
    positive = divergence.positive(_own(scores)).mean()
    negative = _masked(divergence.negative(scores).mean(3), 0.0).mean(1)  # (N, N)
    return negative.sum() / (items * (items - 1)) - positive


def _donsker_varadhan(scores: Tensor) -> Tensor:
    items, globals_, _, locations = scores.shape
    negatives = items * (items - 1) * globals_ * locations
    mean_exponential = _masked(scores.logsumexp(3), -math.inf).flatten().logsumexp(0) - math.log(negatives)
    return mean_exponential - _own(scores).mean()


def _noise_contrastive(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy of every positive pair among itself and the negatives of its global, and a bound.

    All positives of a global share its negatives, so that these are summed once, not once for each location.

    ``log(1 + (N - 1) L)`` less the loss is no bound of the mutual information: negatives of one item depend on each
    other, and L times the same one would raise it by ``log L``. With every item's negatives averaged, not summed, the
    average over which of its L is drawn can be taken out of the loss (1 / x is convex), which leaves InfoNCE with one
    independent negative an item: ``log N`` less that loss is at most the mutual information.
    """
    items, _, _, locations = scores.shape
    own = _own(scores)
    negatives = _masked(scores.logsumexp(3), -math.inf).logsumexp(2)  # (N, M)
    margin = negatives.t().unsqueeze(1) - own  # (M, L, N)
    averaged = F.softplus(stop_gradient(margin) - math.log(locations)).mean()
    return F.softplus(margin).mean(), math.log(items) - averaged


def _accuracy(scores: Tensor) -> Tensor:
    rivals = _masked(scores.amax(3), -math.inf).amax(2)  # (N, M)
    # a tie is no success: scores that are all the same get 0, not 1
    return (_own(scores) > rivals.t().unsqueeze(1)).to(scores.dtype).mean()


def _own(scores: Tensor) -> Tensor:
    """The positives, ``(M, L, N)``."""
    return scores.diagonal(dim1=0, dim2=2)


def _masked(values: Tensor, fill: float) -> Tensor:
    """``(N, M, N)`` with `fill` where a global meets its own item."""
    return values.masked_fill(torch.eye(len(values), dtype=torch.bool, device=values.device).unsqueeze(1), fill)
