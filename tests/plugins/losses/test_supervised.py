"""Supervised heads: cross-entropy by hand, labels met by geometry, the unknown left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infomax_cli.core.api import Axis, Batch, BlockSpec, DataSpec, DoesNotFit, Features, LabelSpec, MapSpec
from infomax_plugins.losses.supervised import Supervised

CHANNELS = 4
LABELS = {"speaker": LabelSpec(3), "phone": LabelSpec(5, hop=160, offset=200.0)}
TIME = (Axis("time", hop=160, centre=20.0),)


def block_spec(grid: tuple[int, ...] = (6,), axes: tuple[Axis, ...] = TIME) -> BlockSpec:
    maps = (MapSpec(1, (20480,), (Axis(),)), MapSpec(CHANNELS, grid, axes))
    data = DataSpec(1, (20480,), ("time",), 16000, LABELS, {"train": 10})
    return BlockSpec(2, (2,), maps, 1, None, (), 1, data)


def make_loss(label: str, spec: BlockSpec | None = None, **options: Any) -> Supervised:
    torch.manual_seed(0)
    return Supervised(spec or block_spec(), label=label, **options).double()


def make_features(*grid: int, items: int = 3, seed: int = 1) -> Features:
    output = torch.randn(items, CHANNELS, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    output.requires_grad_()
    return Features((output.detach() * 0, output), output)


def make_batch(**labels: Any) -> Batch:
    return Batch(views=(), labels={name: torch.tensor(value) for name, value in labels.items()}, ids=())


def loop(loss: Supervised, vectors: list[Tensor], labels: list[int]) -> tuple[Tensor, float]:
    """Cross-entropy and accuracy of one vector a label, -1 left out."""
    terms, right = [], []
    for vector, label in zip(vectors, labels, strict=True):
        if label >= 0:
            logits = loss.head(vector)
            terms.append(torch.log(torch.exp(logits).sum()) - logits[label])
            right.append(int(logits.argmax()) == label)
    return torch.stack(terms).mean(), sum(right) / len(right)


def assert_equal_with_gradients(
    loss: Supervised, features: Features, batch: Batch, expected: tuple[Tensor, float]
) -> None:
    output = loss([features], batch)
    value, accuracy = expected
    torch.testing.assert_close(output.terms["supervised"], value, rtol=0, atol=1e-12)
    assert output.watched["accuracy"].item() == pytest.approx(accuracy, abs=1e-6)
    inputs = [features.output, *loss.parameters()]
    given = torch.autograd.grad(output.terms["supervised"], inputs)
    for one, other in zip(given, torch.autograd.grad(value, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("grid", [(6,), (3, 5), (2, 3, 4)])
def test_a_whole_item_label_is_predicted_from_the_mean_over_the_grid(head: str, grid: tuple[int, ...]) -> None:
    spec = block_spec(grid, tuple(Axis(f"axis{i}") for i in range(len(grid))))
    loss, features = make_loss("speaker", spec, head=head, hidden=7), make_features(*grid)
    vectors = [features.output[b].flatten(1).mean(1) for b in range(3)]
    expected = loop(loss, vectors, [2, -1, 0])
    assert_equal_with_gradients(loss, features, make_batch(speaker=[2, -1, 0]), expected)


def test_a_whole_item_label_of_a_vector_needs_no_mean() -> None:
    loss, features = make_loss("speaker", block_spec((), ())), make_features()
    expected = loop(loss, list(features.output), [2, 1, 0])
    assert_equal_with_gradients(loss, features, make_batch(speaker=[2, 1, 0]), expected)


# frames centred at 20, 180, ...; 10, 30, ...; 20, 340, ... and labels at 200, 360, ...
CASES = [
    (Axis("time", hop=160, centre=20.0), 6, [[1], [2], [3], [4]]),
    (Axis("time", hop=40, centre=0.0), 20, [[3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13, 14], [15, 16, 17, 18]]),
    (Axis("time", hop=320, centre=20.0), 3, [[1], [1], [2], [2]]),
]


@pytest.mark.parametrize(("axis", "frames", "cells"), CASES)
def test_aligned_labels_meet_frames_by_geometry_not_by_length(axis: Axis, frames: int, cells: list[list[int]]) -> None:
    labels = [[0, -1, 4, 2], [1, 1, -1, 3]]
    loss, features = make_loss("phone", block_spec((frames,), (axis,))), make_features(frames, items=2)
    vectors = [features.output[b][:, cell].mean(1) for b in range(2) for cell in cells]
    expected = loop(loss, vectors, [*labels[0], *labels[1]])
    assert_equal_with_gradients(loss, features, make_batch(phone=labels), expected)


@pytest.mark.parametrize("time", [0, 1])
def test_aligned_labels_are_averaged_over_other_axes(time: int) -> None:
    axes = [Axis("frequency"), *TIME]
    grid = [3, 6]
    spec = block_spec(tuple(grid if time else grid[::-1]), tuple(axes if time else axes[::-1]))
    loss, features = make_loss("phone", spec), make_features(*spec.output.grid, items=2)
    frames = features.output.mean(2 if time else 3)
    vectors = [frames[b][:, t] for b in range(2) for t in (1, 2, 3, 4)]
    labels = [[0, 1, 4, 2], [1, 1, -1, 3]]
    assert_equal_with_gradients(loss, features, make_batch(phone=labels), loop(loss, vectors, [*labels[0], *labels[1]]))


@pytest.mark.parametrize(("label", "values"), [("speaker", [-1, -1, -1]), ("phone", [[-1, -1], [-1, -1], [-1, -1]])])
def test_nothing_known_is_no_loss_rather_than_a_perfect_one(label: str, values: Any) -> None:
    loss, features = make_loss(label), make_features(6)
    output = loss([features], make_batch(**{label: values}))
    assert not output.terms
    assert not output.watched


@pytest.mark.parametrize(("label", "values"), [("speaker", [0, 1, -1]), ("phone", [[0, 1], [2, -1], [3, 4]])])
def test_views_are_averaged(label: str, values: Any) -> None:
    loss, batch = make_loss(label), make_batch(**{label: values})
    views = [make_features(6, seed=seed) for seed in (1, 2)]
    alone, both = [loss([view], batch) for view in views], loss(views, batch)
    torch.testing.assert_close(both.terms["supervised"], sum(o.terms["supervised"] for o in alone) / 2)
    torch.testing.assert_close(both.watched["accuracy"], sum(o.watched["accuracy"] for o in alone) / 2)


def test_the_head_sees_the_last_map_only() -> None:
    loss, features = make_loss("speaker"), make_features(6)
    other = Features((torch.full((3, 1, 20480), math.nan), features.output), torch.full((3, 9, 6), math.nan))
    batch = make_batch(speaker=[0, 1, 2])
    assert torch.equal(loss([other], batch).terms["supervised"], loss([features], batch).terms["supervised"])


def test_detach_makes_it_a_monitor() -> None:
    assert make_loss("speaker", detach=True).monitor is True
    assert make_loss("speaker").monitor is False


@pytest.mark.parametrize(("label", "values"), [("speaker", [0, 1, 2]), ("phone", [[0, 1], [2, 3], [3, 4]])])
def test_half_precision_runs_and_stays_close(label: str, values: Any) -> None:
    loss = Supervised(block_spec(), label=label, head="mlp")
    x, batch = torch.randn(3, CHANNELS, 6), make_batch(**{label: values})
    full = loss([Features((x, x), x)], batch).terms["supervised"]
    with torch.autocast("cpu", torch.bfloat16):
        half = loss([Features((x, x.bfloat16()), x.bfloat16())], batch).terms["supervised"]
    half.backward()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=0)


def test_there_is_one_output_a_class() -> None:
    head = make_loss("phone").head
    assert isinstance(head, nn.Linear)
    assert head.weight.shape == (5, CHANNELS)


def test_a_label_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(DoesNotFit, match="no label 'speker'; it has phone, speaker") as refused:
        make_loss("speker")
    assert refused.value.hint == "did you mean speaker?"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((Axis("height"), Axis("width")), "no time axis"),
        ((Axis("time"), Axis("time")), "more than one time axis"),
    ],
)
def test_aligned_labels_need_one_time_axis(axes: tuple[Axis, ...], message: str) -> None:
    with pytest.raises(DoesNotFit, match=message):
        make_loss("phone", block_spec((4, 4), axes))
