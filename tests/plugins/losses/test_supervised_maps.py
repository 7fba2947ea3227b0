"""Supervised heads on images: published heads, maps by address, flattened; and learning from the labelled alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_blocks import block_spec, features, random_features
from infomax_cli.core.api import Batch, BlockSpec, DoesNotFit, Features, InfomaxError
from infomax_cli.core.blocks import Block, describe_blocks, partition
from infomax_cli.recipe import SamplingOptions
from infomax_plugins.losses.supervised import Supervised
from toys import IMAGES, ImageEncoder, batch_of

SPEC = block_spec((3, (8, 8)), (6, (4, 4)), (5, (1, 1)))


def make_loss(spec: BlockSpec = SPEC, **options: Any) -> Supervised:
    torch.manual_seed(0)
    return Supervised(spec, label="class", **options).double()


def labelled(*values: int) -> Batch:
    return Batch(views=(), labels={"class": torch.tensor(values)}, ids=())


def weights(loss: nn.Module) -> list[Tensor]:
    return [p for p in loss.parameters() if p.dim() > 1]


def normalised(column: Tensor) -> Tensor:
    """Batch norm, written out."""
    centred = column - column.mean(0)
    return centred / (centred.square().mean(0) + 1e-5).sqrt()


# --- published heads -------------------------------------------------------------------------------------------------


def test_the_head_of_deep_infomax_is_as_published() -> None:
    loss = make_loss(head="dim", pool="flatten", map="4x4")
    assert [tuple(w.shape) for w in weights(loss)] == [(200, 6 * 16), (4, 200)]
    assert sum(p.numel() for p in loss.parameters()) == 96 * 200 + 200 + 2 * 200 + 200 * 4 + 4
    dropped = [m.p for m in loss.modules() if isinstance(m, nn.Dropout)]
    assert dropped == [0.1]


def test_the_head_of_amdim_is_as_published() -> None:
    loss = make_loss(head="amdim")
    assert [tuple(w.shape) for w in weights(loss)] == [(1024, 5), (4, 1024)]
    assert sum(p.numel() for p in loss.parameters()) == 5 * 1024 + 2 * 1024 + 1024 * 4 + 4
    assert [m.p for m in loss.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.2]


@pytest.mark.parametrize(("head", "hidden"), [("dim", 7), ("amdim", 9)])
def test_published_heads_equal_their_layers_one_by_one(head: str, hidden: int) -> None:
    loss, given = make_loss(head=head, hidden=hidden), random_features(SPEC, items=4)
    for module in loss.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    first, last = (m for m in loss.modules() if isinstance(m, nn.Linear))
    x = given.output.flatten(1)
    h = x @ first.weight.T + (0 if first.bias is None else first.bias)
    logits = F.relu(normalised(h)) @ last.weight.T + last.bias
    expected = -torch.stack([torch.log_softmax(logits[b], 0)[y] for b, y in enumerate([0, 1, 2, 3])]).mean()
    torch.testing.assert_close(loss([given], labelled(0, 1, 2, 3)).terms["supervised"], expected)


def test_clip_and_penalty_equal_their_formulas() -> None:
    loss, given = make_loss(clip=0.5, penalty=0.3), random_features(SPEC, items=3)
    logits = given.output.flatten(1) @ loss.head.weight.T + loss.head.bias  # type: ignore[operator,union-attr]
    terms = []
    for row, label in [(logits[0], 2), (logits[2], 1)]:
        clipped = 0.5 * torch.tanh(row / 0.5)
        terms.append(torch.logsumexp(clipped, 0) - clipped[label] + 0.3 * row.square().mean())
    found = loss([given], labelled(2, -1, 1)).terms["supervised"]
    torch.testing.assert_close(found, torch.stack(terms).mean())


@pytest.mark.parametrize("head", ["dim", "amdim"])
def test_one_labelled_item_is_enough_for_batch_norm(head: str) -> None:
    loss, given = make_loss(head=head), random_features(SPEC, items=3)
    term = loss([given], labelled(-1, 2, -1)).terms["supervised"]
    term.backward()
    assert torch.isfinite(term)


@pytest.mark.parametrize("options", [{"hidden": 0}, {"clip": 0.0}, {"penalty": -1.0}])
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InfomaxError, match=f"supervised: {next(iter(options))} is"):
        make_loss(**options)


# --- which features --------------------------------------------------------------------------------------------------


def test_any_map_is_read_by_index_or_grid() -> None:
    given = random_features(SPEC, items=2)
    by_index, by_grid = make_loss(map=1), make_loss(map="4x4")
    batch = labelled(0, 3)
    assert torch.equal(by_index([given], batch).terms["supervised"], by_grid([given], batch).terms["supervised"])
    with pytest.raises(DoesNotFit, match="supervised: block 2 has no map of 9x9"):
        make_loss(map="9x9")


def test_a_flattened_map_is_one_vector_and_keeps_its_positions() -> None:
    loss, given = make_loss(map=1, pool="flatten"), random_features(SPEC, items=2)
    logits = torch.stack([loss.head(given.maps[1][b].reshape(-1)) for b in range(2)])
    expected = F.cross_entropy(logits, torch.tensor([1, 3]))
    torch.testing.assert_close(loss([given], labelled(1, 3)).terms["supervised"], expected)
    with pytest.raises(InfomaxError, match="built for a map of 4x4, but this batch makes one of 5x5"):
        loss([features(torch.zeros(2, 3, 8, 8), torch.zeros(2, 6, 5, 5), given.maps[2])], labelled(1, 3))


def test_without_pooling_every_position_has_the_label_of_its_item() -> None:
    loss, given = make_loss(map=1, pool="none"), random_features(SPEC, items=2)
    losses = []
    for item, label in ((0, 2), (1, 0)):
        for row in range(4):
            for column in range(4):
                logits = loss.head(given.maps[1][item, :, row, column])
                losses.append(F.cross_entropy(logits, torch.tensor(label)))
    torch.testing.assert_close(loss([given], labelled(2, 0)).terms["supervised"], torch.stack(losses).mean())


def test_the_input_can_be_watched_but_not_trained_on() -> None:
    assert make_loss(map=0, detach=True).monitor
    with pytest.raises(DoesNotFit, match="nothing but the input of block 2"):
        make_loss(map=0)


# --- semi-supervised -------------------------------------------------------------------------------------------------


def block(**options: Any) -> tuple[Block, ImageEncoder]:
    torch.manual_seed(1)
    encoder = ImageEncoder()
    (spec,) = describe_blocks(encoder, partition(3, "none"), IMAGES, 1)
    loss = Supervised(spec, label="class", **options)
    return Block(encoder, spec, {"supervised": loss}, {"supervised": 1.0}, SamplingOptions()), encoder


@pytest.mark.parametrize("head", ["linear", "mlp", "dim", "amdim"])
def test_gradients_come_from_labelled_items_alone_and_move_the_encoder(head: str) -> None:
    made, encoder = block(head=head)
    x = torch.rand(4, 3, 16, 16).requires_grad_()
    output = made([encoder.prepare(x)], batch_of(x, **{"class": torch.tensor([2, -1, 0, -1])}))
    assert output.total is not None
    output.total.backward()
    assert x.grad is not None
    moved = x.grad.flatten(1).abs().sum(1) > 0
    assert moved.tolist() == [True, False, True, False]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("head", ["linear", "amdim"])
def test_unlabelled_items_change_nothing_of_the_labelled_ones_loss(head: str) -> None:
    found = []
    for seed in (0, 1):
        made, encoder = block(head=head)
        for module in made.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(7))
        x[1::2] = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        output = made([encoder.prepare(x)], batch_of(x, **{"class": torch.tensor([2, -1, 0, -1])}))
        found.append(output.terms["supervised"])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("detach", [True, False])
def test_a_batch_without_any_label_is_neither_nan_nor_a_crash(detach: bool) -> None:
    made, encoder = block(head="amdim", detach=detach)
    x = torch.rand(3, 3, 16, 16)
    output = made([encoder.prepare(x)], batch_of(x, **{"class": torch.tensor([-1, -1, -1])}))
    assert output.total is None
    assert output.monitored is None
    assert not output.terms


def test_a_monitor_leaves_the_encoder_alone() -> None:
    made, encoder = block(head="amdim", detach=True)
    x = torch.rand(4, 3, 16, 16)
    output = made([encoder.prepare(x)], batch_of(x, **{"class": torch.tensor([2, -1, 0, 1])}))
    assert output.total is None
    assert output.monitored is not None
    output.monitored.backward()
    assert all(p.grad is None for p in encoder.parameters())


def test_half_precision_runs_and_stays_close() -> None:
    loss = Supervised(SPEC, label="class", head="amdim", map="4x4", pool="flatten", clip=10.0, penalty=1e-3).eval()
    given = random_features(SPEC, items=4, dtype=torch.float32)
    batch = labelled(0, 1, -1, 3)
    full = loss([given], batch).terms["supervised"]
    with torch.autocast("cpu", torch.bfloat16):
        halved = Features(tuple(m.bfloat16() for m in given.maps), given.target.bfloat16())
        half = loss([halved], batch).terms["supervised"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.03, atol=0)
