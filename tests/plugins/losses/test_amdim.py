"""AMDIM's loss equals the formulas of the paper, finds its maps in any block, and says what it lacks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_blocks import BATCH, assert_learns_in_float32, block_spec, features, gradients, random_features, total
from infomax_cli.core.api import BlockSpec, DataSpec, DoesNotFit, Features, InfomaxError, UsageError
from infomax_cli.core.blocks import Block, describe_blocks, partition
from infomax_cli.recipe import SamplingOptions
from infomax_plugins.encoders.amdim_resnet import AMDIMResNet
from infomax_plugins.losses.amdim import AMDIM, Embedding

ITEMS = 3
PUBLISHED_BLOCK = ((3, (9, 9)), (4, (7, 7)), (5, (5, 5)), (6, (1, 1)))
CUT_BLOCK = ((4, (7, 7)), (5, (5, 5)), (5, (3, 3)))  # no global
IMAGES = DataSpec(3, (32, 32), ("height", "width"), None, {}, {"train": 8})
FIRST_BLOCK = ((3, (8, 8)), (5, (6, 6)))  # no map that was published
SPEECH_BLOCK = ((1, (40,)), (4, (12,)), (6, (1,)))


def spec_of(*maps: tuple[int, tuple[int, ...]], views: int = 2) -> BlockSpec:
    return block_spec(*(maps or PUBLISHED_BLOCK), views=views)


def make_loss(spec: BlockSpec | None = None, **options: Any) -> AMDIM:
    """With networks that differ from the identity in every part."""
    torch.manual_seed(0)
    loss = AMDIM(spec or spec_of(), **options).double()
    for parameter in loss.parameters():
        nn.init.normal_(parameter, std=0.5)
    return loss


def make_views(spec: BlockSpec, items: int = ITEMS) -> list[Features]:
    return [random_features(spec, items, seed) for seed in range(spec.views)]


def in_the_paper(loss: AMDIM, views: list[Features], seed: int) -> dict[str, Tensor]:
    """Every sum written out, from the description alone. Sources are drawn as the loss draws them."""
    torch.manual_seed(seed)
    embedded = [{key: by_hand(loss, key, view) for key in loss.networks} for view in views]
    drawn: list[dict[str, Tensor]] = []
    for maps in embedded:
        drawn.append({})
        for task in loss.tasks:
            key, width = name_of(task.source), maps[name_of(task.source)].shape[1]
            if key not in drawn[-1]:
                drawn[-1][key] = torch.randint(width, (ITEMS,)) if width > 1 else torch.zeros(ITEMS, dtype=torch.int64)
    terms: dict[str, Tensor] = {}
    penalties = []
    for task in loss.tasks:
        losses, squares = [], []
        for a in range(len(views)):
            for b in range(len(views)):
                if a == b:
                    continue
                target = embedded[b][name_of(task.target)]
                for i in range(ITEMS):
                    source = embedded[a][name_of(task.source)][i, drawn[a][name_of(task.source)][i]]
                    s = torch.stack([torch.stack([source @ v for v in image]) for image in target]) / loss.rkhs**0.5
                    squares.append((s**2).mean())
                    c = s if loss.clip is None else loss.clip * torch.tanh(s / loss.clip)
                    others = sum(torch.exp(c[j, m]) for j in range(ITEMS) if j != i for m in range(c.shape[1]))
                    losses += [-torch.log(torch.exp(p) / (torch.exp(p) + others)) for p in c[i]]
        terms[task.name] = torch.stack(losses).mean()
        penalties.append(torch.stack(squares).mean())
    if loss.penalty:
        terms["penalty"] = loss.penalty * sum(penalties, torch.zeros((), dtype=torch.float64))
    return terms


def name_of(tap: Any) -> str:
    return f"mean{tap.index}" if tap.pooled else f"map{tap.index}"


def by_hand(loss: AMDIM, key: str, view: Features) -> Tensor:
    """The network of a map, with the statistics of the batch: ``(B, L, D)``."""
    found = view.maps[loss.taps[key].index].flatten(2)
    x = (found.mean(2, keepdim=True) if loss.taps[key].pooled else found).transpose(1, 2)
    if loss.local_samples is not None and x.shape[1] > loss.local_samples:
        drawn = torch.rand(x.shape[:2]).argsort(1)[:, : loss.local_samples]
        x = torch.stack([image[places] for image, places in zip(x, drawn, strict=True)])
    net = loss.networks[key]
    if isinstance(net, nn.Identity):
        return x
    assert isinstance(net, Embedding)
    hidden = x @ net.conv1.weight.t()
    if net.hidden_norm is not None:
        hidden = normalised(hidden, net.hidden_norm)
    return normalised(
        hidden.clamp(min=0) @ net.conv2.weight.t() + x @ net.shortcut.weight.t() + net.shortcut.bias, net.norm
    )


def normalised(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    variance, mean = torch.var_mean(x, (0, 1), unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize(
    ("maps", "options"),
    [
        (PUBLISHED_BLOCK, {}),
        (PUBLISHED_BLOCK, {"batch_norm": True, "clip": 0.7, "penalty": 0.3}),
        (PUBLISHED_BLOCK, {"clip": None, "penalty": 0.0, "rkhs": 4}),
        (PUBLISHED_BLOCK, {"tasks": ["5x5->7x7", "5x5 -> 1x1", [1, 2], [-1, 1]]}),
        (CUT_BLOCK, {}),
        (CUT_BLOCK, {"tasks": ["1x1->3x3"]}),
        (PUBLISHED_BLOCK, {"local_samples": 4}),
        (FIRST_BLOCK, {}),
        (FIRST_BLOCK, {"local_samples": 5, "tasks": ["1x1->6x6", "6x6->6x6"]}),
        (SPEECH_BLOCK, {"tasks": ["1->12", "12->12"]}),
        (SPEECH_BLOCK, {}),
    ],
)
def test_amdim_equals_the_formulas_in_the_paper(maps: Any, options: dict[str, Any]) -> None:
    spec = spec_of(*maps)
    loss, views = make_loss(spec, **options), make_views(spec)
    torch.manual_seed(5)
    output = loss(views, BATCH)
    expected = in_the_paper(loss, views, 5)
    assert output.terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(output.terms[name], value, rtol=0, atol=1e-10)
    tensors = [*loss.parameters(), *(each for view in views for each in view.maps[1:])]
    wanted = torch.stack(list(expected.values())).sum()
    for one, other in zip(gradients(total(output), tensors), gradients(wanted, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_of_three_views_all_pairs_are_averaged() -> None:
    spec = spec_of((3, (9, 9)), (4, (5, 5)), (6, (1, 1)), views=3)
    loss, views = make_loss(spec), make_views(spec)
    torch.manual_seed(2)
    output = loss(views, BATCH)
    for name, value in in_the_paper(loss, views, 2).items():
        torch.testing.assert_close(output.terms[name], value, rtol=0, atol=1e-10)


def test_what_is_watched_is_what_it_says() -> None:
    spec = spec_of(*PUBLISHED_BLOCK[:1], (4, (7, 7)), (4, (1, 1)))
    loss = AMDIM(spec).double()
    # a global that is twice the mean embedding of every location of its image, and of no other
    directions = 6.0 * torch.eye(4, dtype=torch.float64)[:3]
    local = directions.view(3, 4, 1, 1).expand(3, 4, 7, 7)
    view = features(torch.zeros(3, 3, 9, 9, dtype=torch.float64), local, directions.view(3, 4, 1, 1))
    output = loss([view, view], BATCH)
    watched = output.watched
    assert watched["accuracy_1x1_to_7x7"].item() == 1.0
    assert watched["chance_1x1_to_7x7"].item() == pytest.approx(math.log(1 + 2 * 49))
    assert watched["bound_1x1_to_7x7"].item() == pytest.approx(math.log(1 + 2 * 49) - output.terms["1x1_to_7x7"].item())
    assert watched.keys() == {"accuracy_1x1_to_7x7", "chance_1x1_to_7x7", "bound_1x1_to_7x7"}
    assert not any(value.requires_grad for value in watched.values())


def test_where_nothing_is_known_the_loss_is_chance_and_no_answer_is_right() -> None:
    spec = spec_of()
    loss = make_loss(spec, tasks=["1x1->5x5", "1x1->7x7"])
    view = random_features(spec, 4)
    blank = features(*view.maps[:3], torch.zeros(4, 6, 1, 1, dtype=torch.float64))
    output = loss([blank, blank], BATCH)
    assert output.terms["1x1_to_5x5"].item() == pytest.approx(math.log(1 + 3 * 25))
    assert output.terms["1x1_to_7x7"].item() == pytest.approx(math.log(1 + 3 * 49))
    assert output.terms["penalty"].item() == 0
    assert output.watched["accuracy_1x1_to_7x7"].item() == 0
    assert output.watched["bound_1x1_to_7x7"].item() == pytest.approx(0)


def test_sources_of_a_map_are_drawn_once_a_view_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of()
    loss = make_loss(spec, tasks=["5x5->5x5", "5x5->7x7", "1x1->7x7"])
    drawn = []
    draw = torch.randint

    def recorded(*given: Any, **options: Any) -> Tensor:
        drawn.append(draw(*given, **options))
        return drawn[-1]

    monkeypatch.setattr(torch, "randint", recorded)
    for _ in range(40):
        loss(make_views(spec), BATCH)
    assert len(drawn) == 40 * 2
    assert torch.cat(drawn).unique().tolist() == list(range(25))


def test_the_tasks_that_read_a_map_share_its_network() -> None:
    loss = make_loss()
    assert [task.name for task in loss.tasks] == ["1x1_to_5x5", "1x1_to_7x7", "5x5_to_5x5"]
    assert set(loss.networks) == {"map1", "map2", "map3"}
    assert isinstance(loss.networks["map3"], nn.Identity)
    assert not isinstance(make_loss(rkhs=7).networks["map3"], nn.Identity)


def test_of_several_maps_with_a_grid_the_last_is_meant() -> None:
    loss = make_loss(spec_of((3, (9, 9)), (4, (7, 7)), (5, (7, 7)), (6, (1, 1))))
    assert [task.target.index for task in loss.tasks] == [2]


def test_networks_start_near_the_identity() -> None:
    torch.manual_seed(0)
    net = Embedding(4, 6, batch_norm=False)
    assert (net.conv2.weight == 0).all()
    assert (net.shortcut.weight.diagonal() == 1).all()
    off = net.shortcut.weight - torch.eye(6, 4)
    assert 0.005 < off.abs().max() <= 0.01
    narrower = Embedding(6, 4, batch_norm=False).shortcut.weight
    assert narrower.abs().max() <= 6**-0.5  # torch's own


def served(cut: Any) -> list[list[str]]:
    """The tasks of every block."""
    encoder = AMDIMResNet(size=32, ndf=2, n_rkhs=8, depth=1)
    specs = describe_blocks(encoder, partition(7, cut), IMAGES, views=2)
    return [[task.name for task in AMDIM(spec).tasks] for spec in specs]


def test_a_greedy_block_is_served_the_published_tasks_that_it_has_maps_for_or_one_of_its_own() -> None:
    assert served("none") == [["1x1_to_5x5", "1x1_to_7x7", "5x5_to_5x5"]]
    assert served([3, 4]) == [
        ["1x1_to_7x7"],
        ["1x1_to_5x5", "1x1_to_7x7", "5x5_to_5x5"],
        ["1x1_to_5x5"],
    ]
    assert served("each") == [
        ["1x1_to_30x30"],
        ["1x1_to_30x30"],
        ["1x1_to_14x14"],
        ["1x1_to_7x7"],
        ["1x1_to_5x5", "1x1_to_7x7", "5x5_to_5x5"],
        ["1x1_to_5x5"],
        ["1x1_to_3x3"],
    ]


def test_the_task_of_a_block_s_own_comes_before_its_context_stage() -> None:
    spec = block_spec((1, (40,)), (4, (12,)), (5, (12,)), views=2, context=2)
    (task,) = AMDIM(spec).tasks
    assert (task.name, task.source.index, task.source.pooled, task.target.index) == ("1_to_12", 2, True, 1)


def test_no_more_than_the_drawn_locations_are_embedded() -> None:
    loss = make_loss(local_samples=3)
    rows: list[int] = []
    for key in ("map1", "map2"):
        loss.networks[key].register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    output = loss(make_views(spec_of()), BATCH)
    assert rows == [ITEMS * 3] * 4
    assert output.watched["chance_1x1_to_7x7"].item() == pytest.approx(math.log(1 + 2 * 3))


def test_training_brings_views_of_an_image_together() -> None:
    torch.manual_seed(0)
    encoder = AMDIMResNet(size=32, ndf=4, n_rkhs=16, depth=1)
    (spec,) = describe_blocks(encoder, partition(7, "none"), IMAGES, views=2)
    block = Block(encoder, spec, {"amdim": AMDIM(spec)}, {"amdim": 1.0}, SamplingOptions())
    optimizer = torch.optim.Adam(block.trained_parameters(), 5e-3)
    images = torch.rand(8, 3, 1, 1) * torch.rand(8, 3, 32, 32)
    seen = []
    for _ in range(25):
        views = [encoder.prepare((images + 0.02 * torch.randn_like(images)).clamp(0, 1)) for _ in range(2)]
        output = block(views, BATCH)
        assert output.total is not None
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
        seen.append(output.terms["amdim/1x1_to_7x7"].item())
    assert all(parameter.grad is not None for parameter in block.trained_parameters())
    assert sum(seen[-3:]) / 3 < 0.8 * seen[0]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_scores_of_any_size_stay_finite() -> None:
    spec = spec_of(*PUBLISHED_BLOCK[:3], (5, (1, 1)))
    for clip in (20.0, None):
        loss = AMDIM(spec, clip=clip)
        views = [random_features(spec, seed=seed, dtype=torch.float32) for seed in range(2)]
        large = [features(*view.maps[:-1], 1e4 * view.maps[-1]) for view in views]
        output = loss(large, BATCH)
        assert all(value.isfinite() for value in (*output.terms.values(), *output.watched.values()))
        for gradient in gradients(total(output), [*loss.parameters(), *views[0].maps[1:]]):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_judged_in_single(half: torch.dtype) -> None:
    spec = spec_of((3, (9, 9)), (32, (7, 7)), (32, (5, 5)), (32, (1, 1)))
    torch.manual_seed(0)
    loss = AMDIM(spec)
    views = [random_features(spec, 8, seed, torch.float32) for seed in range(2)]
    torch.manual_seed(1)
    exact = loss(views, BATCH).terms
    halves = [features(*(each.to(half) for each in view.maps)) for view in views]
    torch.manual_seed(1)
    with torch.autocast("cpu", half):
        output = loss(halves, BATCH)
    for name, value in exact.items():
        assert output.terms[name].item() == pytest.approx(value.item(), rel=0.02)
    assert_learns_in_float32(total(output), loss)


def test_scores_beyond_the_range_of_half_precision_are_told() -> None:
    spec = spec_of((3, (9, 9)), (32, (7, 7)), (32, (1, 1)))
    loss = AMDIM(spec)
    views = [random_features(spec, 8, seed, torch.float32) for seed in range(2)]
    large = [features(*view.maps[:-1], 3e4 * view.maps[-1].clamp(-1, 1)).maps for view in views]
    with torch.autocast("cpu", torch.float16):
        output = loss([features(*(each.half() for each in maps)) for maps in large], BATCH)
    assert all(value.isfinite() for value in (*output.terms.values(), *output.watched.values()))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_one_view_is_too_few() -> None:
    with pytest.raises(DoesNotFit, match="compares two views of an item, but there is 1") as caught:
        AMDIM(spec_of(views=1))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("views: {count: 2, augment: amdim-cifar}")


def test_a_batch_of_one_image_is_refused() -> None:
    spec = spec_of()
    with pytest.raises(InfomaxError, match="this batch has one") as caught:
        make_loss(spec)(make_views(spec, items=1), BATCH)
    assert caught.value.hint == "take a train.batch of at least 2"


@pytest.mark.parametrize(
    ("tasks", "kind", "message"),
    [
        (["1x1->6x6"], DoesNotFit, "block 2 has no map of 6x6"),
        (["1x1->9x9x9"], DoesNotFit, "block 2 has no map of 9x9x9"),
        ([[3, 7]], DoesNotFit, "block 2 has no map 7"),
        (["9x9->9x9"], DoesNotFit, "the task 9x9->9x9 would read nothing but the input of block 2"),
        (["1x1"], UsageError, "1x1 names no task"),
        (["1x1->5x5->7x7"], UsageError, "names no task"),
        ([[1]], UsageError, "names no task"),
        (["1x1->local"], UsageError, "'local' names no map"),
        ([], InfomaxError, "tasks is empty"),
    ],
)
def test_tasks_that_the_block_cannot_serve_are_refused(tasks: Any, kind: type[InfomaxError], message: str) -> None:
    with pytest.raises(kind, match=f"^amdim.*{message}"):
        AMDIM(spec_of(), tasks=tasks)


def test_a_block_without_a_map_of_several_positions_is_refused() -> None:
    with pytest.raises(DoesNotFit, match=r"^amdim needs a local map, and block 2 has none of more than one") as caught:
        AMDIM(spec_of((3, (1, 1)), (4, (1, 1))))
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, "clip is 0.0, but must be positive"),
        ({"penalty": -1.0}, "penalty is -1.0, but must be at least 0"),
        ({"rkhs": 0}, "rkhs is 0, but must be at least 1"),
        ({"local_samples": 0}, "local_samples is 0, but must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InfomaxError, match=f"^amdim: {message}"):
        AMDIM(spec_of(), **options)
