"""Classifiers: at their optimum, fair to items, and the same again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infomax_cli.core.classifiers import (
    NEIGHBOURS,
    TEMPERATURE,
    _Problem,
    fit,
    fit_knn,
    fit_linear,
    fit_mlp,
    parts,
)
from infomax_cli.core.logistic import Whitening, fit_logistic
from infomax_cli.core.rows import Rows

CPU = torch.device("cpu")


def noisy_rows(count: int = 600, dims: int = 6, classes: int = 4, noise: float = 1.0, seed: int = 0) -> Rows:
    """Classes that overlap, three rows an item, features that are correlated and of very different size."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dims, generator=random, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=random)
    x = centres[labels] + noise * torch.randn(count, dims, generator=random, dtype=torch.float64)
    mix = torch.randn(dims, dims, generator=random, dtype=torch.float64) * torch.logspace(0, -3, dims).double()
    return Rows(x @ mix, labels, torch.arange(count) // 3)


def problem(rows: Rows, seed: int = 0) -> _Problem:
    return _Problem.of(rows, seed, CPU, whole=False)


# --- logistic regression ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-5])
def test_logistic_regression_is_at_the_optimum_of_scikit_learn(l2: float) -> None:
    from sklearn.linear_model import LogisticRegression

    rows = noisy_rows()
    x = Whitening.fit(rows.features)(rows.features)
    ours = fit_logistic(x, rows.labels, 4, l2, tolerance=1e-7)
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=10_000).fit(x.numpy(), rows.labels.numpy())
    weight, bias = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    entropy = torch.nn.functional.cross_entropy(x @ weight.T + bias, rows.labels)
    assert ours.converged
    assert ours.loss == pytest.approx(float(entropy + 0.5 * l2 * weight.square().sum()), abs=1e-7)
    torch.testing.assert_close(ours.weight, weight, atol=1e-3, rtol=1e-3)


def test_the_default_tolerance_is_within_a_thousandth_of_the_optimum() -> None:
    rows = noisy_rows(noise=0.5)
    x = Whitening.fit(rows.features)(rows.features)
    for l2 in (1e-1, 1e-3, 1e-5):
        exact = fit_logistic(x, rows.labels, 4, l2, tolerance=1e-8).loss
        quick = fit_logistic(x.float(), rows.labels, 4, l2).loss
        assert quick == pytest.approx(exact, abs=1e-3)


def test_a_penalty_for_each_feature_is_a_ridge_on_features_of_that_scale() -> None:
    rows = noisy_rows()
    x = Whitening.fit(rows.features)(rows.features)
    each = torch.logspace(-4, 0, x.shape[1]).double()
    one = fit_logistic(x, rows.labels, 4, each, tolerance=1e-8)
    other = fit_logistic(x / each.sqrt(), rows.labels, 4, 1.0, tolerance=1e-8)
    assert one.loss == pytest.approx(other.loss, abs=1e-8)
    torch.testing.assert_close(one.weight * each.sqrt(), other.weight, atol=1e-4, rtol=1e-4)


def test_where_it_starts_does_not_matter() -> None:
    rows = noisy_rows()
    x = Whitening.fit(rows.features)(rows.features)
    far = fit_logistic(x, rows.labels, 4, 1e-6, tolerance=1e-7)
    one = fit_logistic(x, rows.labels, 4, 1e-2, tolerance=1e-7)
    other = fit_logistic(x, rows.labels, 4, 1e-2, start=far, tolerance=1e-7)
    torch.testing.assert_close(one.weight, other.weight, atol=1e-4, rtol=1e-4)


def test_whitened_features_are_uncorrelated_and_dead_ones_are_left_out() -> None:
    rows = noisy_rows()
    dead = torch.full((len(rows), 2), 3.0, dtype=torch.float64)
    twice = rows.features[:, :1] * 5  # the same again
    whiten = Whitening.fit(torch.cat([rows.features, dead, twice], 1))
    white = whiten(torch.cat([rows.features, dead, twice], 1))
    assert white.shape == (len(rows), 6)
    torch.testing.assert_close(white.T @ white / len(rows), torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(white.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-8, rtol=0)


def test_units_of_the_features_do_not_matter_to_the_linear_probe() -> None:
    rows = noisy_rows()
    scaled = Rows(rows.features * torch.logspace(-4, 4, 6), rows.labels, rows.items)
    one, other = fit("linear", rows, seed=0, device=CPU), fit("linear", scaled, seed=0, device=CPU)
    assert one.choice == other.choice
    assert torch.equal(one.predict(rows.features), other.predict(scaled.features))


def test_the_strength_that_does_best_on_held_out_items_is_chosen() -> None:
    """Many useless features and few rows: only a strong penalty generalises."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(120) % 2
    useful = (labels * 2 - 1).unsqueeze(1) + torch.randn(120, 3, generator=random)
    many = Rows(torch.cat([useful, torch.randn(120, 60, generator=random)], 1), labels, torch.arange(120))
    chosen = fit_linear(problem(many))
    assert chosen.choice["l2"] >= 1e-1
    assert chosen.held_out is not None
    tried = [fit_linear(problem(many), (strength,)).held_out for strength in (1.0, 1e-1, 1e-2, 1e-5)]
    assert chosen.held_out >= max(score for score in tried if score is not None)


# --- held out --------------------------------------------------------------------------------------------------------


def test_an_item_is_never_split_between_parts() -> None:
    items = torch.arange(200).repeat_interleave(torch.arange(200) % 7 + 1)
    part = parts(items, 6, seed=3)
    for item in range(200):
        assert len(set(part[items == item].tolist())) == 1
    sizes = part[items.diff(prepend=torch.tensor([-1])) > 0].bincount()
    assert sizes.max() - sizes.min() <= 1
    assert not torch.equal(part, parts(items, 6, seed=4))


def test_the_items_of_each_class_are_dealt_evenly() -> None:
    classes = torch.arange(10).repeat_interleave(6)
    part = parts(torch.arange(60), 6, seed=0, classes=classes)
    for value in range(10):
        assert sorted(part[classes == value].tolist()) == [0, 1, 2, 3, 4, 5]


def test_frames_of_one_item_do_not_vouch_for_each_other() -> None:
    """Items that can be told apart but not classified: held out by frame, memory would look like knowledge."""
    random = torch.Generator().manual_seed(0)
    names = torch.randn(40, 20, generator=random).repeat_interleave(20, 0)
    labels = torch.randint(2, (40,), generator=random).repeat_interleave(20)
    rows = Rows(names + 0.01 * torch.randn(800, 20, generator=random), labels, torch.arange(40).repeat_interleave(20))
    for name in ("linear", "mlp", "knn"):
        fitted = fit(name, rows, seed=0, device=CPU)  # type: ignore[arg-type]
        assert fitted.held_out is not None
        assert fitted.held_out < 0.75, name
        assert (fitted.predict(rows.features) == labels).double().mean() > 0.6, name


def test_with_nothing_to_hold_out_a_classifier_is_fitted_all_the_same() -> None:
    rows = Rows(torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 1]), torch.zeros(6, dtype=torch.long))
    for name in ("linear", "mlp", "knn"):
        fitted = fit(name, rows, seed=0, device=CPU)  # type: ignore[arg-type]
        assert fitted.held_out is None
        assert fitted.predict(rows.features).shape == (6,)


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "mlp", "knn"])
def test_only_classes_that_were_learnt_are_named(name: str) -> None:
    rows = noisy_rows(classes=2, noise=0.1)
    apart = Rows(rows.features.float(), torch.tensor([5, 9])[rows.labels], rows.items)
    fitted = fit(name, apart, seed=0, device=CPU)  # type: ignore[arg-type]
    assert (fitted.predict(apart.features) == apart.labels).double().mean() > 0.99


@pytest.mark.parametrize("name", ["linear", "mlp", "knn"])
def test_one_class_alone_is_always_named(name: str) -> None:
    rows = Rows(torch.randn(30, 3), torch.full((30,), 4), torch.arange(30))
    assert fit(name, rows, seed=0, device=CPU).predict(torch.randn(5, 3)).tolist() == [4] * 5  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["linear", "mlp", "knn"])
def test_a_seed_gives_the_same_classifier_whatever_torch_s_own(name: str) -> None:
    rows = noisy_rows()
    rows = Rows(rows.features.float(), rows.labels, rows.items)
    torch.manual_seed(1)
    one = fit(name, rows, seed=7, device=CPU)  # type: ignore[arg-type]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    other = fit(name, rows, seed=7, device=CPU)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert one.choice == other.choice
    assert torch.equal(one.predict(rows.features), other.predict(rows.features))


# --- one hidden layer ------------------------------------------------------------------------------------------------


def test_a_hidden_layer_reads_what_no_line_divides() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(1500, 2, generator=random) * 2 - 1
    rows = Rows(x, (x[:, 0] * x[:, 1] > 0).long(), torch.arange(1500))
    linear, mlp = fit_linear(problem(rows)), fit_mlp(problem(rows))
    assert (linear.predict(x) == rows.labels).double().mean() < 0.65
    assert (mlp.predict(x) == rows.labels).double().mean() > 0.95


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    rows = noisy_rows(noise=2.0)
    rows = Rows(rows.features.float(), rows.labels, rows.items)
    fitted = fit_mlp(problem(rows), patience=3)  # rounds are of 25 epochs: 500 rows make two batches
    best = int(fitted.choice["epochs"]) // 25
    assert 1 <= best <= 96
    assert fit_mlp(problem(rows), rounds=best + 3, patience=100).choice == fitted.choice
    stopped = fit_mlp(problem(rows), rounds=best, patience=100)
    assert torch.equal(fitted.predict(rows.features), stopped.predict(rows.features))


# --- neighbours ------------------------------------------------------------------------------------------------------


def vote(query: Tensor, known: Tensor, labels: Tensor, k: int, classes: int) -> int:
    """One neighbour after the other."""
    mean, deviation = known.mean(0), known.std(0, correction=0)
    query, known = (query - mean) / deviation, (known - mean) / deviation
    cosines = [(float(torch.cosine_similarity(query, row, dim=0)), place) for place, row in enumerate(known)]
    votes = [0.0] * classes
    for cosine, place in sorted(cosines, reverse=True)[:k]:
        votes[int(labels[place])] += 2.718281828459045 ** (cosine / TEMPERATURE)
    return max(range(classes), key=lambda value: votes[value])


def test_neighbours_vote_as_in_a_plain_loop() -> None:
    rows = noisy_rows(count=90, noise=1.5)
    fitted = fit_knn(problem(rows), neighbours=(5,))
    queries = noisy_rows(count=40, noise=1.5, seed=0).features
    assert fitted.predict(queries).tolist() == [vote(q, rows.features, rows.labels, 5, 4) for q in queries]


def test_the_number_of_neighbours_is_chosen_on_held_out_items() -> None:
    noisy, clear = noisy_rows(noise=2.0), noisy_rows(noise=0.05)
    assert fit_knn(problem(clear)).choice == {"k": 1}
    assert fit_knn(problem(noisy)).choice["k"] > 1
    tried = [fit_knn(problem(noisy), (k,)).held_out for k in NEIGHBOURS]
    assert fit_knn(problem(noisy)).held_out == max(score for score in tried if score is not None)


def test_a_subset_of_neighbours_is_told() -> None:
    rows = noisy_rows(noise=0.1)
    fitted = fit_knn(problem(rows), most=100)
    assert fitted.notes == ("neighbours are looked for among 100 of 600 rows, drawn by the seed",)
    assert (fitted.predict(rows.features) == rows.labels).double().mean() > 0.95
    assert fit_knn(problem(rows)).notes == ()
