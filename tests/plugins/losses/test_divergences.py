"""Every measure equals its formula, bounds what it says on Gaussians of known information, and never overflows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from infomax_plugins.losses._divergences import DIVERGENCES, LIMIT, Measure, contrast, score_pairs

MEASURES: tuple[Measure, ...] = get_args(Measure)
F_DIVERGENCES: tuple[Measure, ...] = ("jsd", "gan", "kl", "rkl", "h2", "x2")
LN2 = math.log(2)


def random_scores(items: int = 3, globals_: int = 2, locations: int = 4, scale: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(items, globals_, items, locations, generator=draw, dtype=torch.float64)
    return (scale * scores).requires_grad_()


# --- the formulas ----------------------------------------------------------------------------------------------------


def softplus(u: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(u))


def chi_conjugate(u: Tensor) -> Tensor:
    """sup over r >= 0 of r u - (r - 1)^2, by looking for it."""
    r = torch.clamp(1 + u.detach() / 2, min=0)
    return r * u - (r - 1) ** 2


Term = Callable[[Tensor], Tensor]
PUBLISHED: dict[Measure, tuple[Term, Term]] = {
    "jsd": (lambda u: LN2 - softplus(-u), lambda u: softplus(u) - LN2),
    "gan": (lambda u: -softplus(-u), softplus),
    "kl": (lambda u: u, lambda u: torch.exp(u - 1)),
    "rkl": (lambda u: -torch.exp(-u), lambda u: u - 1),
    "h2": (lambda u: 1 - torch.exp(-u), lambda u: torch.exp(u) - 1),
    "x2": (lambda u: u, chi_conjugate),
    "w1": (lambda u: u, lambda u: u),
}


def in_a_loop(scores: Tensor, measure: Measure) -> Tensor:
    """The loss, pair by pair."""
    items, globals_, _, locations = scores.shape
    if measure == "nce":
        return plain_nce(scores)
    positives, negatives = [], []
    for i in range(items):
        for m in range(globals_):
            for j in range(items):
                for l in range(locations):  # noqa: E741
                    (positives if i == j else negatives).append(scores[i, m, j, l])
    if measure == "dv":
        exponentials = torch.stack([torch.exp(u) for u in negatives])
        return torch.log(exponentials.mean()) - torch.stack(positives).mean()
    positive, negative = PUBLISHED[measure]
    return torch.stack([negative(u) for u in negatives]).mean() - torch.stack([positive(u) for u in positives]).mean()


def plain_nce(scores: Tensor) -> Tensor:
    """The published form, N x L x (1 + N L) logits for each global, but with a true mask."""
    items, globals_, _, locations = scores.shape
    losses = []
    for m in range(globals_):
        u = scores[:, m]  # (N, N, L)
        positive = torch.stack([u[i, i] for i in range(items)]).unsqueeze(2)  # (N, L, 1)
        own = torch.eye(items, dtype=torch.bool).unsqueeze(2)
        negative = u.masked_fill(own, -math.inf).view(items, 1, -1).expand(-1, locations, -1)  # (N, L, N L)
        losses.append(-torch.cat([positive, negative], dim=2).log_softmax(2)[:, :, 0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("measure", MEASURES)
def test_values_and_gradients_are_those_of_a_loop_over_pairs(measure: Measure) -> None:
    scores = random_scores(scale=2.0)
    found, _ = contrast(scores, measure)
    expected = in_a_loop(scores, measure)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, scores), torch.autograd.grad(expected, scores))


def test_the_plain_nce_is_itself_the_softmax_of_the_paper() -> None:
    scores = random_scores()
    terms = []
    for i in range(3):
        for m in range(2):
            others = [scores[i, m, j, k] for j in range(3) if j != i for k in range(4)]
            for l in range(4):  # noqa: E741
                own = scores[i, m, i, l]
                terms.append(-torch.log(torch.exp(own) / (torch.exp(own) + sum(torch.exp(u) for u in others))))
    torch.testing.assert_close(plain_nce(scores), torch.stack(terms).mean())


def test_own_locations_are_no_negatives_however_low_the_others_score() -> None:
    scores = random_scores(scale=1.0).detach() - 30.0  # the published mask of -10 would win here
    own = torch.eye(3, dtype=torch.bool)[:, None, :, None]
    scores = torch.where(own, scores + 20.0, scores)
    value, watched = contrast(scores, "nce")
    assert float(value) < 1e-6
    assert float(watched["accuracy"]) == 1.0


@pytest.mark.parametrize("measure", MEASURES)
def test_scores_ten_times_larger_stay_finite_and_have_a_gradient(measure: Measure) -> None:
    # a dot product of 2048 normalised units is some 45 wide; the published kl, rkl and h2 give inf and nan here
    scores = random_scores(items=4, scale=450.0).detach().float().requires_grad_()
    value, watched = contrast(scores, measure)
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.isfinite(torch.stack([value, *watched.values()])).all()
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("measure", ["kl", "rkl", "h2"])
def test_reined_scores_are_pulled_back_from_beyond_the_limit_and_unchanged_within(measure: Measure) -> None:
    divergence = DIVERGENCES[measure]
    within = torch.linspace(-LIMIT, LIMIT, 101, dtype=torch.float64)
    torch.testing.assert_close(divergence.positive(within), PUBLISHED[measure][0](within))
    torch.testing.assert_close(divergence.negative(within), PUBLISHED[measure][1](within))
    beyond = torch.linspace(-1000, 1000, 2001, dtype=torch.float64).requires_grad_()
    (up,) = torch.autograd.grad(divergence.positive(beyond).sum(), beyond)
    (down,) = torch.autograd.grad(divergence.negative(beyond).sum(), beyond)
    assert (up >= 0).all()
    assert (down >= 0).all()
    assert (up[beyond < LIMIT] > 0).all()  # a positive that scores too low is pushed up, from wherever
    assert (down[beyond > -LIMIT] > 0).all()
    # however far out, no critic may promise more than its divergence: T r - f*(T) <= f(r) where r = 1, f = 0
    assert (divergence.positive(beyond) - divergence.negative(beyond) <= 1e-9).all()


def test_chi_squared_has_a_minimum() -> None:
    small, large = random_scores(scale=5).detach(), random_scores(scale=50).detach()
    assert contrast(large, "x2")[0] > contrast(small, "x2")[0] > 0  # the published loss falls without end


# --- Gaussians of known mutual information ---------------------------------------------------------------------------


class Gaussians:
    """Pairs of correlation `rho`, with everything about them in closed form."""

    def __init__(self, rho: float) -> None:
        self.rho = rho
        self.information = -0.5 * math.log(1 - rho**2)

    def log_ratios(self, items: int, seed: int, locations: int = 1) -> Tensor:
        """Of every x with every y, ``(N, 1, N, L)``; the y of an item's locations are drawn given its x, apart."""
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(items, 1, generator=draw, dtype=torch.float64)
        return self._log_ratios(x, torch.randn(items, locations, generator=draw, dtype=torch.float64))

    def evenly(self, items: int, seed: int = 0) -> Tensor:
        """As `log_ratios`, of pairs spread evenly, so that means over them vary little: no seed needs to be lucky."""
        uniform = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(items, dtype=torch.float64)
        x, noise = torch.special.ndtri(uniform).unsqueeze(2).unbind(1)
        return self._log_ratios(x, noise)

    def _log_ratios(self, x: Tensor, noise: Tensor) -> Tensor:
        y = self.rho * x + math.sqrt(1 - self.rho**2) * noise  # (N, L)
        x, shrunk = x[..., None, None], 1 - self.rho**2
        return self.information - (self.rho**2 * (x**2 + y**2) - 2 * self.rho * x * y) / (2 * shrunk)

    def divergences(self) -> dict[Measure, float]:
        shrunk = 1 - self.rho**2
        reverse = 0.5 * (2 / shrunk - 2 + math.log(shrunk))
        affinity = shrunk**0.25 / math.sqrt(1 - self.rho**2 / 4)
        jensen_shannon = 2 * self._jensen_shannon()
        return {
            "jsd": jensen_shannon,
            "gan": jensen_shannon,
            "kl": self.information,
            "rkl": reverse,
            "h2": 2 - 2 * affinity,
            "x2": 1 / shrunk - 1,
        }

    def _jensen_shannon(self) -> float:
        """By sums on a grid: it has no closed form."""
        side = torch.linspace(-8, 8, 801, dtype=torch.float64)
        x, y = side[:, None], side[None, :]
        apart = torch.exp(-(x**2 + y**2) / 2) / (2 * math.pi)
        shrunk = 1 - self.rho**2
        joint = torch.exp(-(x**2 - 2 * self.rho * x * y + y**2) / (2 * shrunk)) / (2 * math.pi * math.sqrt(shrunk))
        middle = (joint + apart) / 2
        cell = float(side[1] - side[0]) ** 2
        return float(0.5 * (torch.xlogy(joint, joint / middle) + torch.xlogy(apart, apart / middle)).sum()) * cell


BEST: dict[Measure, Term] = {  # the best critic of each bound, from the log ratio
    "jsd": lambda log_ratio: log_ratio,
    "gan": lambda log_ratio: log_ratio,
    "kl": lambda log_ratio: 1 + log_ratio,
    "rkl": lambda log_ratio: log_ratio,
    "h2": lambda log_ratio: log_ratio / 2,
    "x2": lambda log_ratio: 2 * (torch.exp(log_ratio) - 1),
}


@pytest.mark.parametrize("measure", F_DIVERGENCES)
def test_the_best_critic_reaches_the_divergence_and_another_stays_below(measure: Measure) -> None:
    gaussians = Gaussians(0.4)  # with more, ratios of densities have no variance, and rkl and x2 take long to settle
    truth = gaussians.divergences()[measure]
    best = [BEST[measure](gaussians.evenly(1024, seed)) for seed in range(4)]

    def bound(scores: Tensor) -> float:
        return DIVERGENCES[measure].shift - float(contrast(scores, measure)[0])

    assert sum(map(bound, best)) / 4 == pytest.approx(truth, rel=0.06 if measure in ("rkl", "x2") else 0.02)
    for other in (0.5 * best[0], best[0] + 0.7, 2 * best[0] - 0.3):
        assert bound(other) < 0.9 * truth


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.999])
def test_nce_stays_below_the_mutual_information_and_below_log_n(rho: float) -> None:
    gaussians, items = Gaussians(rho), 16
    bounds = [float(contrast(gaussians.log_ratios(items, seed), "nce")[1]["bound"]) for seed in range(100)]
    mean = sum(bounds) / len(bounds)
    assert mean < gaussians.information + 0.02
    assert max(bounds) < math.log(items)
    assert mean > 0.7 * min(gaussians.information, math.log(items))  # and is no trivial bound


def test_the_nce_bound_holds_where_negatives_of_an_item_are_all_alike() -> None:
    gaussians, items, locations = Gaussians(0.8), 3, 20
    alike = [gaussians.log_ratios(items, seed).expand(-1, -1, -1, locations) for seed in range(200)]
    losses, watched = zip(*(contrast(each, "nce") for each in alike), strict=True)
    naive = math.log(1 + (items - 1) * locations) - float(torch.stack(losses).mean())
    bound = sum(float(seen["bound"]) for seen in watched) / len(watched)
    assert naive > gaussians.information + 0.1  # what log(1 + negatives) - loss would claim
    assert 0.4 * gaussians.information < bound < gaussians.information


def test_dv_with_the_log_ratio_is_the_mutual_information() -> None:
    gaussians = Gaussians(0.8)
    bound = contrast(gaussians.evenly(1024), "dv")[1]["bound"]
    assert float(bound) == pytest.approx(gaussians.information, rel=0.05)


def test_dv_overrates_what_it_was_trained_on_and_not_what_was_held_out() -> None:
    torch.manual_seed(0)
    rho, items = 0.6, 16
    critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def draw(count: int) -> Tensor:
        x = torch.randn(count, 1)
        y = rho * x + math.sqrt(1 - rho**2) * torch.randn(count, 1)
        return torch.stack(torch.broadcast_tensors(x, y.t()), dim=-1)  # every x with every y, (N, N, 2)

    def scores(pairs: Tensor) -> Tensor:
        return critic(pairs).squeeze(-1)[:, None, :, None]

    few, optimizer = draw(items), torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        contrast(scores(few), "dv")[0].backward()
        optimizer.step()
    truth = Gaussians(rho).information
    assert float(contrast(scores(few), "dv")[1]["bound"]) > 2 * truth
    assert float(contrast(scores(draw(200)), "dv")[1]["bound"]) < truth


# --- scoring and cost ------------------------------------------------------------------------------------------------


def test_scores_are_dot_products_and_cosines_for_w1() -> None:
    torch.manual_seed(0)
    local, summary = torch.randn(3, 4, 5).double(), torch.randn(3, 2, 5).double()
    dots, cosines = score_pairs(local, summary, "jsd"), score_pairs(local, summary, "w1")
    for i, m, j, k in [(0, 0, 0, 0), (0, 1, 2, 3), (2, 1, 1, 0)]:
        torch.testing.assert_close(dots[i, m, j, k], summary[i, m] @ local[j, k])
        torch.testing.assert_close(cosines[i, m, j, k], F.cosine_similarity(summary[i, m], local[j, k], dim=0))
    assert abs(float(contrast(1000 * cosines / 1000, "w1")[0])) <= 2


def test_scores_are_summed_in_single_precision_under_autocast() -> None:
    local, summary = torch.randn(2, 3, 2048).bfloat16(), torch.randn(2, 1, 2048).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_pairs(local, summary, "nce")
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.einsum("imd,jld->imjl", summary.float(), local.float()))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.untyped_storage().nbytes() // each.element_size())
        return made


def test_nce_never_makes_more_than_the_scores_themselves() -> None:
    items, locations = 8, 16
    scores = torch.randn(items, 1, items, locations, requires_grad=True)
    with Largest() as ours:
        contrast(scores, "nce")[0].backward()
    with Largest() as plain:
        plain_nce(scores).backward()
    assert ours.elements == scores.numel()
    assert plain.elements >= items * locations * (1 + items * locations)
