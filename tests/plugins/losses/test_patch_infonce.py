"""InfoNCE over patches equals the loops in the papers, in every direction, and draws its negatives where it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_blocks import BATCH, assert_learns_in_float32, block_spec, gradients
from infomax_cli.core.api import DoesNotFit, Features, InfomaxError
from infomax_plugins.losses import _negatives
from infomax_plugins.losses.patch_infonce import Direction, PatchInfoNCE

ITEMS, ROWS, COLUMNS, CHANNELS, CONTEXT = 2, 6, 4, 4, 7
SAMPLINGS = ["never_positive", "published"]
WAYS: dict[Direction, tuple[int, int]] = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}


def make_loss(context: int | None = None, grid: tuple[int, ...] = (ROWS, COLUMNS), **options: Any) -> PatchInfoNCE:
    torch.manual_seed(0)
    maps = [(2, grid), (CHANNELS, grid)] + ([] if context is None else [(context, grid)])
    spec = block_spec(*maps, context=None if context is None else 2)
    return PatchInfoNCE(spec, **{"steps": 3, "negatives": 4} | options).double()


def random_features(context: int | None = None, items: int = ITEMS, rows: int = ROWS) -> Features:
    torch.manual_seed(1)
    target = torch.randn(items, CHANNELS, rows, COLUMNS, dtype=torch.float64).requires_grad_()
    if context is None:
        return Features((target,), target)
    read = torch.randn(items, context, rows, COLUMNS, dtype=torch.float64).requires_grad_()
    return Features((target, read), target, read)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor]]:
    """What was drawn for every direction and step, one after the other: the length of a line, and rows."""
    calls: list[tuple[int, Tensor]] = []

    def recorder(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def recorded(lines: int, length: int, places: Tensor, count: int) -> Tensor:
            rows = draw(lines, length, places, count)
            calls.append((length, rows))
            return rows

        return recorded

    for name in ("from_targets", "from_other_targets"):
        monkeypatch.setattr(_negatives, name, recorder(getattr(_negatives, name)))
    return calls


def position(way: Direction, line: int, place: int) -> tuple[int, int, int]:
    """Image, row and column of a place along a line that runs `way`."""
    if way in ("down", "up"):
        return line // COLUMNS, place if way == "down" else ROWS - 1 - place, line % COLUMNS
    return line // ROWS, line % ROWS, place if way == "right" else COLUMNS - 1 - place


def inside(row: int, column: int) -> bool:
    return 0 <= row < ROWS and 0 <= column < COLUMNS


def predicted(way: Direction, ahead: int) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Every context and its target."""
    down, right = WAYS[way]
    for item in range(ITEMS):
        for y in range(ROWS):
            for x in range(COLUMNS):
                if inside(y + ahead * down, x + ahead * right):
                    yield (item, y, x), (item, y + ahead * down, x + ahead * right)


def loop_in_the_papers(loss: PatchInfoNCE, features: Features, drawn: list[tuple[int, Tensor]]) -> tuple[Tensor, float]:
    """The loss as Löwe et al. 2019 have it, position by position; and the share of right answers."""
    z = features.target
    c = z if features.context is None else features.context
    calls, losses, right = iter(drawn), [], []
    for way in loss.directions:
        for step, predictor in zip(loss.steps, loss.predictors[way], strict=True):
            length, rows = next(calls)
            ahead, terms = step + loss.skip, []
            negatives = {
                position(way, line, ahead + place): [position(way, r // length, r % length) for r in found.tolist()]
                for line, of_line in enumerate(rows)
                for place, found in enumerate(of_line)
            }
            for (b, y, x), target in predicted(way, ahead):
                prediction = predictor.weight @ c[b, :, y, x]
                f = torch.stack([prediction @ z[i, :, j, k] for i, j, k in [target, *negatives[target]]])
                terms.append(-torch.log(torch.exp(f[0]) / torch.exp(f).sum()))
                right.append(bool(f[0] > f[1:].max()))
            losses.append(torch.stack(terms).mean())
    return torch.stack(losses).mean(), sum(right) / len(right)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(
    ("context", "options"),
    [
        (None, {}),
        (CONTEXT, {}),
        (None, {"steps": [1, 4], "skip": 0}),
        (CONTEXT, {"steps": [2], "skip": 2}),
        (None, {"directions": ("up", "right"), "steps": 2}),
        (None, {"directions": ("down", "left"), "steps": [1, 2]}),
    ],
)
def test_patch_infonce_equals_the_loop_in_the_papers(
    context: int | None, options: dict[str, Any], sampling: str, drawn: list[tuple[int, Tensor]]
) -> None:
    loss = make_loss(context, sampling=sampling, **options)
    features = random_features(context)
    output = loss([features], BATCH)
    expected, accuracy = loop_in_the_papers(loss, features, drawn)

    value = output.terms["patch_infonce"]
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    inputs = [*features.maps, *loss.parameters()]
    for given, wanted in zip(gradients(value, inputs), gradients(expected, inputs), strict=True):
        assert wanted.abs().sum() > 0
        torch.testing.assert_close(given, wanted, rtol=0, atol=1e-12)
    assert output.watched["accuracy"].item() == pytest.approx(accuracy, abs=1e-12)
    assert output.watched["bound"].item() == pytest.approx(math.log(5) - expected.item(), abs=1e-12)
    assert not any(watched.requires_grad for watched in output.watched.values())


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_negatives_come_from_all_targets_of_the_step_evenly(sampling: str, drawn: list[tuple[int, Tensor]]) -> None:
    loss = make_loss(sampling=sampling, negatives=300)
    loss([random_features()], BATCH)
    for step, (length, rows) in zip(loss.steps, drawn, strict=True):
        ahead, lines = step + loss.skip, ITEMS * COLUMNS
        targets = _negatives.target_rows(lines, length, torch.arange(ahead, length))
        assert set(rows.flatten().tolist()) == set(targets.flatten().tolist())
        hits = (rows == targets.unsqueeze(-1)).float().mean().item()
        if sampling == "never_positive":
            assert hits == 0
        else:
            assert hits == pytest.approx(1 / targets.numel(), abs=4 * (targets.numel() * rows.numel()) ** -0.5)


def test_chance_is_the_logarithm_of_17() -> None:
    torch.manual_seed(0)
    loss = PatchInfoNCE(block_spec((1, (7, 7)), (64, (7, 7))))
    noise = torch.randn(16, 64, 7, 7) * 0.1  # so small that predictors which know nothing claim little
    output = loss([Features((noise,), noise)], BATCH)
    assert output.terms["patch_infonce"].item() == pytest.approx(2.833, abs=0.02)
    assert output.watched["accuracy"].item() == pytest.approx(1 / 17, abs=0.02)
    for predictor in loss.predictors.parameters():
        nn.init.zeros_(predictor)
    output = loss([Features((noise,), noise)], BATCH)
    assert output.terms["patch_infonce"].item() == pytest.approx(math.log(17), abs=1e-6)
    assert output.watched["accuracy"].item() == 0  # telling nothing apart is no success


@pytest.mark.parametrize(("context", "read"), [(None, [0, 1, 2, 3, 4, 5]), (CONTEXT, [2, 3, 4, 5])])
def test_only_what_is_predicted_or_predicts_learns(context: int | None, read: list[int]) -> None:
    loss, features = make_loss(context), random_features(context)
    loss([features], BATCH).terms["patch_infonce"].backward()
    assert features.target.grad is not None
    assert features.target.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist() == read
    if features.context is not None:
        assert features.context.grad is not None
        assert features.context.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_it_learns_to_tell_patches_of_one_image_from_others() -> None:
    torch.manual_seed(0)
    loss = PatchInfoNCE(block_spec((1, (7, 7)), (32, (7, 7))))
    predictors = list(loss.parameters())
    for _ in range(40):
        maps = torch.randn(16, 32, 1, 1) + 0.3 * torch.randn(16, 32, 7, 7)  # an image's patches are alike
        output = loss([Features((maps,), maps)], BATCH)
        with torch.no_grad():
            for weight, grad in zip(predictors, gradients(output.terms["patch_infonce"], predictors), strict=True):
                weight -= grad
    assert output.watched["accuracy"] > 0.5
    # some negatives are of the same image, and as good
    assert 1 < output.watched["bound"] < math.log(17)


def test_views_are_averaged() -> None:
    loss = make_loss(negatives=1, steps=1)
    features = [random_features(), Features((), torch.zeros(ITEMS, CHANNELS, ROWS, COLUMNS, dtype=torch.float64))]
    values = []
    for views in ([features[0]], features):
        torch.manual_seed(3)
        values.append(loss(views, BATCH).terms["patch_infonce"])
    torch.testing.assert_close(values[1], (values[0] + math.log(2)) / 2)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_half_precision_stays_close_and_scores_in_full(sampling: Any) -> None:
    torch.manual_seed(0)
    loss = PatchInfoNCE(block_spec((1, (7, 7)), (64, (7, 7))), sampling=sampling)
    target = torch.randn(4, 64, 7, 7)
    values = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            given = target.bfloat16() if enabled else target
            values.append(loss([Features((given,), given)], BATCH).terms["patch_infonce"])
    assert abs(values[0] - values[1]) < 0.01 * values[0]
    assert_learns_in_float32(values[1], loss)


def test_large_scores_do_not_overflow() -> None:
    loss = PatchInfoNCE(block_spec((1, (7, 7)), (64, (7, 7))))
    target = (1e3 * torch.randn(4, 64, 7, 7)).requires_grad_()
    assert_learns_in_float32(loss([Features((target,), target)], BATCH).terms["patch_infonce"], loss)


def test_gradients_are_the_same_bits_every_time() -> None:
    loss = PatchInfoNCE(block_spec((1, (7, 7)), (64, (7, 7))))
    target = torch.randn(8, 64, 7, 7)
    found = []
    for _ in range(3):
        torch.manual_seed(1)
        leaf = target.clone().requires_grad_()
        loss([Features((leaf,), leaf)], BATCH).terms["patch_infonce"].backward()
        found.append(leaf.grad)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(
    ("context", "grid", "options", "message"),
    [
        (None, (7,), {}, "grid of two axes, but the maps of block 2 have"),
        (None, (2, 2), {}, "predicts 3 \\+ 1 patches down, but block 2 has 2"),
        (None, (4, 7), {}, "predicts 3 \\+ 1 patches down, but block 2 has 4"),
        (None, (7, 4), {"directions": ("right",)}, "predicts 3 \\+ 1 patches right, but block 2 has 4"),
        (CONTEXT, (7, 7), {"directions": ("down", "right")}, "the context of block 2 reads downwards"),
    ],
)
def test_it_does_not_fit_a_block_that_lacks_what_it_needs(
    context: int | None, grid: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DoesNotFit, match=message):
        make_loss(context, grid, **options)


def test_it_says_how_many_steps_fit() -> None:
    with pytest.raises(DoesNotFit) as refusal:
        make_loss(grid=(4, 7))
    assert refusal.value.hint == "loss.steps=2 is the most"
    make_loss(grid=(4, 7), steps=2)
    with pytest.raises(DoesNotFit) as refusal:
        make_loss(grid=(2, 7), steps=1)
    assert refusal.value.hint == "take smaller patches, or a smaller encoder.stride"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": []}, "steps is \\[\\]"),
        ({"skip": -1}, "skip is -1"),
        ({"negatives": 0}, "negatives is 0"),
        ({"directions": ()}, "directions must name"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InfomaxError, match=message):
        make_loss(**options)


def test_one_target_has_no_negatives() -> None:
    spec = block_spec((1, (6, 1)), (CHANNELS, (6, 1)))
    features = Features((), torch.randn(1, CHANNELS, 6, 1))
    with pytest.raises(InfomaxError, match="5 patches ahead there is one target"):
        PatchInfoNCE(spec, steps=4)([features], BATCH)
    PatchInfoNCE(spec, steps=3)([features], BATCH)
