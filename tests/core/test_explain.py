"""What is said of single dimensions is what was put into them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from sklearn.metrics import mutual_info_score

from infomax_cli.core.decode import DecodeOptions, Decoding
from infomax_cli.core.dependency import DependencyOptions
from infomax_cli.core.explain import carrying, contribution, explain, hoyer, information, normal_distance
from infomax_cli.core.explanation import Question
from infomax_cli.core.probe import probe
from infomax_cli.core.probe_options import ProbeOptions
from infomax_cli.core.subject import Subject
from infomax_cli.core.watcher import Nobody
from infomax_cli.errors import UsageError
from infomax_cli.runs import Run


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_dimension_that_is_the_label_tells_all_and_noise_nothing() -> None:
    y = torch.arange(6000) % 3
    x = torch.stack([y + 0.01 * normal(6000), normal(6000, seed=1)], dim=1)
    told, nothing = information(x, y).tolist()
    assert told == pytest.approx(math.log(3), abs=0.1)  # of 16 bins two hold two classes
    assert nothing == pytest.approx(0, abs=3e-3)


def test_information_is_scikit_learn_s_of_the_binned_values_less_its_bias() -> None:
    y = torch.randint(4, (3000,), generator=torch.Generator().manual_seed(0))
    x = normal(3000, 1) + 0.7 * y[:, None]
    edges = x[:, 0].quantile(torch.linspace(0, 1, 17, dtype=torch.float64)[1:-1])
    plugin = mutual_info_score(y.numpy(), torch.bucketize(x[:, 0], edges).numpy())
    assert float(information(x, y)[0]) == pytest.approx(plugin - 15 * 3 / 6000, abs=1e-9)


def test_a_constant_dimension_tells_nothing() -> None:
    assert information(torch.zeros(100, 1).double(), torch.arange(100) % 2).tolist() == [0.0]


def test_the_distance_from_normal_is_kolmogorov_and_smirnov_s() -> None:
    x = torch.stack([normal(500), 2 * normal(500, seed=1) + 1, normal(500, seed=2).square()], dim=1)
    expected = [stats.kstest(column.numpy(), "norm").statistic for column in x.T]
    assert normal_distance(x).tolist() == pytest.approx(expected, abs=1e-12)


def test_sparsity_runs_from_all_alike_to_a_single_one() -> None:
    weights = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 3.0, 0.0]])
    assert hoyer(weights).tolist() == pytest.approx([0.0, 1.0])
    assert carrying(torch.tensor([[5.0, 4.0, 0.5, 0.5]])) == 2
    assert carrying(torch.ones(2, 10)) == 9


def test_different_questions_have_files_of_different_names() -> None:
    plain = Question(label="vowel", depths=(0, 1), all_depths=True)
    others = [
        replace(plain, label="phone"),
        replace(plain, depths=(1,), all_depths=False),
        replace(plain, means=True),
        replace(plain, seed=1),
        replace(plain, contribution=DecodeOptions()),
        replace(plain, contribution=DecodeOptions(steps=2)),
        replace(plain, dependency=DependencyOptions()),
        replace(plain, dependency=DependencyOptions(batch=16)),
        replace(plain, contribution=DecodeOptions(), dependency=DependencyOptions()),
    ]
    stems = [question.stem for question in (plain, *others)]
    assert len(set(stems)) == len(stems)
    assert plain.stem == "vowel"
    assert replace(plain, label="a/b").stem == "a_b"
    assert plain.of_depth(1).stem == others[-1].of_depth(1).stem == "vowel-depth1"


def test_every_depth_of_a_run_is_explained_and_repeats(subject: Subject) -> None:
    found, again = (explain(subject, "vowel", [1, 5]) for _ in range(2))
    assert [one.to_dict() for one, _ in found] == [one.to_dict() for one, _ in again]
    deep = found[0][0]
    assert (deep.depth, len(deep.information), deep.classes) == (1, 6, ("a", "i", "u"))
    assert len(deep.weights) == 3
    assert 0 < deep.entropy <= math.log(3)


def test_draws_vary_more_than_means(subject: Subject) -> None:
    (drawn, _), (meant, _) = (explain(subject, "vowel", [4], sampled=sampled)[0] for sampled in (True, False))
    assert all(a > b for a, b in zip(drawn.deviation, meant.deviation, strict=True))


def test_with_all_dimensions_replaced_no_error_is_left(subject: Subject, run: Run) -> None:
    decoding = Decoding(subject, [4], DecodeOptions(steps=2, batch=2, width=4, loss="mse"))

    decoding.load_or_train(run, Nobody(), lambda step, losses: None)
    left = contribution(decoding, 4, items=3)
    assert list(left) == [2, 4, 6]
    assert left[6] == pytest.approx(0, abs=1e-9)
    assert left[2] > 0


def test_draws_of_gaussians_stand_beside_the_items_that_are_learnt_from(subject: Subject) -> None:
    plain, drawn, again = (
        probe(subject, ["speaker"], ProbeOptions(depth=4, labels_per_class=3, repeats=2, draws=draws))["speaker"]
        for draws in (0, 2, 2)
    )
    assert (plain.scores[0].train_rows, drawn.scores[0].train_rows) == (9, 27)
    assert plain.scores[0].test_rows == drawn.scores[0].test_rows
    assert drawn.scores == again.scores
    assert drawn.stem != plain.stem
    with pytest.raises(UsageError, match="vowel is aligned"):
        probe(subject, ["vowel"], ProbeOptions(draws=2))
    with pytest.raises(UsageError, match="--draws 2: there is no Gaussian up to depth 0"):
        probe(subject, ["speaker"], ProbeOptions(depth=0, draws=2))
