"""InfoNCE equals the loop in the papers, for every sampling, and draws its negatives where it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infomax_cli.core.api import (
    Axis,
    Batch,
    BlockSpec,
    DataSpec,
    DoesNotFit,
    Features,
    InfomaxError,
    LabelSpec,
    MapSpec,
)
from infomax_plugins.encoders.speech_conv import SpeechConv
from infomax_plugins.losses import _negatives, _scoring
from infomax_plugins.losses._scoring import Reach
from infomax_plugins.losses.infonce import InfoNCE

SAMPLINGS = ["batch", "never_positive", "sequence", "speaker", "same_time"]
ITEMS, FRAMES, CHANNELS, CONTEXT = 4, 14, 5, 3
SPEAKERS = torch.tensor([7, -1, 7, 2])


def block_spec(
    frames: int = FRAMES,
    channels: int = CHANNELS,
    context: int | None = None,
    labels: dict[str, LabelSpec] | None = None,
) -> BlockSpec:
    """A block of one stage, and a context stage `context` wide if given."""
    maps = [MapSpec(width, (frames,), (Axis(),)) for width in (2, channels, context) if width is not None]
    labels = {"speaker": LabelSpec(9)} if labels is None else labels
    return BlockSpec(
        index=3,
        stages=tuple(range(len(maps) - 1)),
        maps=tuple(maps),
        target=1,
        context=None if context is None else 2,
        posteriors=(),
        views=1,
        data=DataSpec(1, (20480,), ("time",), 16000, labels, {"train": 10}),
    )


def make_loss(spec: BlockSpec | None = None, **options: Any) -> InfoNCE:
    options = {"steps": 3, "negatives": 4, "window": 9} | options
    return InfoNCE(spec or block_spec(context=CONTEXT), **options).double()


def random_features(frames: int = FRAMES, items: int = ITEMS, context: int | None = CONTEXT) -> Features:
    target = torch.randn(items, CHANNELS, frames, dtype=torch.float64).requires_grad_()
    read = None if context is None else torch.randn(items, context, frames, dtype=torch.float64).requires_grad_()
    return Features(maps=(target,) if read is None else (target, read), target=target, context=read)


def make_batch(speakers: Tensor = SPEAKERS) -> Batch:
    return Batch(views=(), labels={"speaker": speakers}, ids=())


class Drawn:
    """What a loss drew: its window, and the negatives of step k's prediction of the frame `time` of `item`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.window = (0, 0)
        self.rows: list[tuple[list[int], Tensor]] = []
        find_reach = InfoNCE._reach_of

        def reach_of(loss: InfoNCE, frames: int) -> Reach:
            reach = find_reach(loss, frames)
            self.window = reach.start, reach.stop
            return reach

        monkeypatch.setattr(InfoNCE, "_reach_of", reach_of)
        for name in ("from_batch", "from_sequence", "from_speaker", "from_other_targets"):
            monkeypatch.setattr(_negatives, name, self._recorder(getattr(_negatives, name)))

    def _recorder(self, draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def recorded(first: Any, frames: int, times: Tensor, count: int) -> Tensor:
            rows = draw(first, frames, times, count)
            self.rows.append((times.tolist(), rows))
            return rows

        return recorded

    def negatives(self, step: int, item: int, time: int) -> list[int]:
        times, rows = self.rows[step if len(self.rows) > 1 else 0]
        return rows[item, times.index(time)].tolist()


@pytest.mark.parametrize("score", ["dot", "mean"])
@pytest.mark.parametrize("context", [None, 200])
def test_predictors_may_start_so_that_scores_of_unit_variance_have_it_too(score: str, context: int | None) -> None:
    torch.manual_seed(0)
    spec = block_spec(channels=100, context=context)
    found = {}
    for start in ("published", "unit"):
        loss = InfoNCE(spec, predictors_start=start, score=score)
        with torch.no_grad():
            predicted = loss.predictors(torch.randn(50, context or 100)).unflatten(1, (-1, 100))
            found[start] = float((predicted @ torch.randn(100, 200) * loss.scale).var())
    assert found["unit"] == pytest.approx(1.0, abs=0.05)
    assert found["published"] == pytest.approx(100 / 3 if score == "dot" else 1 / 300, rel=0.05)


def loop_in_the_paper(loss: InfoNCE, features: Features, drawn: Drawn, divisor: float = 1.0) -> tuple[Tensor, float]:
    """Equation 4 of Oord et al. 2018, for every step as in Löwe et al. 2019; and the share of right answers."""
    z = features.target
    c = z if features.context is None else features.context
    items, channels, frames = z.shape
    start, stop = drawn.window
    losses, right = [], []
    for i, k in enumerate(loss.steps):
        w = loss.predictors.weight[i * channels : (i + 1) * channels]
        terms = []
        for b in range(items):
            for t in range(start, stop - k):
                prediction = w @ c[b, :, t]
                candidates = [z[b, :, t + k]]
                if loss.sampling == "same_time":
                    candidates += [z[other, :, t + k] for other in range(items) if other != b]
                else:
                    candidates += [z[r // frames, :, r % frames] for r in drawn.negatives(i, b, t + k)]
                f = torch.stack([prediction @ candidate / divisor for candidate in candidates])
                terms.append(-torch.log(torch.exp(f[0]) / torch.exp(f).sum()))
                right.append(bool(f[0] > f[1:].max()))
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses).mean(), sum(right) / len(right)


def gradients_of(value: Tensor, loss: InfoNCE, features: Features) -> list[Tensor]:
    inputs = [features.target, *([] if features.context is None else [features.context]), *loss.parameters()]
    return list(torch.autograd.grad(value, inputs))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("steps", [3, [1, 2, 4, 8], [2, 5]])
@pytest.mark.parametrize(("score", "window", "context"), [("dot", 9, CONTEXT), ("mean", None, None)])
def test_infonce_equals_the_loop_in_the_paper(
    sampling: str, steps: int | list[int], score: str, window: int | None, context: int | None, monkeypatch: Any
) -> None:
    torch.manual_seed(1)
    options = {"sampling": sampling, "steps": steps, "score": score, "window": window}
    loss = make_loss(block_spec(context=context), **options)
    features, drawn = random_features(context=context), Drawn(monkeypatch)

    output = loss([features], make_batch())
    channels = features.target.shape[1]
    divisor = {"dot": 1.0, "mean": channels}[score]
    expected, accuracy = loop_in_the_paper(loss, features, drawn, divisor)

    value = output.terms["infonce"]
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    for given, wanted in zip(gradients_of(value, loss, features), gradients_of(expected, loss, features), strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=1e-12)
    count = ITEMS if sampling == "same_time" else 5
    assert output.watched["accuracy"].item() == pytest.approx(accuracy, abs=1e-12)
    assert output.watched["bound"].item() == pytest.approx(math.log(count) - expected.item(), abs=1e-12)
    assert not any(value.requires_grad for value in output.watched.values())


def by_autograd(target: Tensor, context: Tensor | None, weight: Tensor, candidates: Tensor, reach: Reach) -> Tensor:
    """`score_candidates` without its closed form: each step's predictions against all that it fetches."""
    rows = target.transpose(1, 2).flatten(0, 1)
    given = (target[..., reach.start : reach.stop] if context is None else context).transpose(1, 2)
    scores = []
    for place, (step, w) in enumerate(zip(reach.steps, weight.to(target.dtype).chunk(len(reach.steps)), strict=True)):
        predictions = (given[:, : reach.length - step] @ w.t()).float()
        chosen = candidates[:, step - reach.steps[0] :, min(place, candidates.shape[2] - 1)]
        fetched = rows[chosen].float()
        scores.append(
            nn.functional.pad((fetched @ predictions.unsqueeze(-1))[..., 0], (0, 0, step - reach.steps[0], 0))
        )
    return torch.stack(scores, dim=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", ["shared", "each its own"])
@pytest.mark.parametrize("context", [None, 24])
@pytest.mark.parametrize("chunk", [1, 2**30])
def test_the_closed_form_equals_autograd(
    dtype: torch.dtype, groups: str, context: int | None, chunk: int, monkeypatch: Any
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(_scoring._CHUNK_BYTES, "cpu", chunk)
    items, channels, frames, reach = 3, 32, 90, Reach(7, 71, (1, 2, 5))
    target = (torch.randn(items, channels, frames) / 4).to(dtype).requires_grad_()
    given = None if context is None else torch.randn(items, context, reach.length).to(dtype).requires_grad_()
    weight = (torch.randn(3 * channels, context or channels) / 4).requires_grad_()
    candidates = torch.randint(items * frames, (items, reach.places, 1 if groups == "shared" else 3, 11))
    exists = torch.arange(1, reach.length)[:, None] >= torch.tensor(reach.steps)
    found = []
    for closed in (True, False):
        if closed:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                scores = _scoring.score_candidates(target, given, weight, candidates, reach)
        else:
            scores = by_autograd(target, given, weight, candidates, reach)
        loss = ((scores.logsumexp(-1) - scores[..., 0]) * exists).sum()
        inputs = [tensor for tensor in (target, given, weight) if tensor is not None]
        found.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        if dtype == torch.float32:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
            cosine = nn.functional.cosine_similarity(ours.float().flatten(), theirs.float().flatten(), dim=0)
            assert cosine > 0.999


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("sampling", ["batch", "never_positive", "sequence", "speaker"])
def test_predictors_of_zero_give_exactly_ln_11(dtype: torch.dtype, tolerance: float, sampling: str) -> None:
    torch.manual_seed(0)
    loss = InfoNCE(block_spec(frames=200, channels=16), sampling=sampling).to(dtype)
    nn.init.zeros_(loss.predictors.weight)
    target = torch.randn(4, 16, 200, dtype=dtype) * 10
    output = loss([Features((target,), target)], make_batch())
    assert abs(output.terms["infonce"].item() - math.log(11)) < tolerance
    assert abs(output.watched["bound"].item()) < tolerance
    assert output.watched["accuracy"].item() == 0  # telling nothing apart is no success


def test_steps_as_a_number_are_all_up_to_it() -> None:
    assert make_loss(steps=4).steps == (1, 2, 3, 4)
    assert make_loss(steps=[8, 1, 2, 1]).steps == (1, 2, 8)


def test_the_window_moves_over_all_frames_and_covers_all_that_are_few(monkeypatch: Any) -> None:
    drawn, starts = Drawn(monkeypatch), set()
    loss = make_loss(window=9)
    for seed in range(60):
        torch.manual_seed(seed)
        loss([random_features(frames=12)], make_batch())
        starts.add(drawn.window)
    assert starts == {(0, 9), (1, 10), (2, 11), (3, 12)}
    loss([random_features(frames=7)], make_batch())
    assert drawn.window == (0, 7)


def test_outside_the_window_only_negatives_are_read(monkeypatch: Any) -> None:
    torch.manual_seed(0)
    drawn, loss, features = Drawn(monkeypatch), make_loss(window=6, negatives=1), random_features(frames=60)
    loss([features], make_batch()).terms["infonce"].backward()
    start, stop = drawn.window
    assert features.context is not None
    assert features.context.grad is not None
    assert features.target.grad is not None
    read = (features.context.grad != 0).any(1)
    assert read[:, start : stop - 1].all()
    assert read.sum() == ITEMS * 5  # the last frame of the window predicts nothing
    targets = _negatives.target_rows(ITEMS, 60, torch.arange(start + 1, stop)).flatten().tolist()
    touched = (features.target.grad != 0).any(1).flatten().nonzero().flatten().tolist()
    assert set(touched) == {*targets, *drawn.rows[0][1].flatten().tolist()}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_any_batch_size_will_do(sampling: str) -> None:
    loss = make_loss(sampling=sampling)
    for items in (4, 3, 2):
        output = loss([random_features(items=items)], make_batch(SPEAKERS[:items]))
        assert output.terms["infonce"].isfinite()


@pytest.mark.parametrize("sampling", ["batch", "never_positive", "sequence", "speaker"])
def test_one_item_is_a_batch_too(sampling: str) -> None:
    loss = make_loss(sampling=sampling)
    assert loss([random_features(items=1)], make_batch(SPEAKERS[:1])).terms["infonce"].isfinite()


def test_one_item_has_no_others_at_the_same_time() -> None:
    with pytest.raises(InfomaxError, match="compares the items of a batch, but this batch has one"):
        make_loss(sampling="same_time")([random_features(items=1)], make_batch(SPEAKERS[:1]))


def test_one_item_with_one_target_has_no_other_target() -> None:
    loss = make_loss(sampling="never_positive", steps=8)
    with pytest.raises(InfomaxError, match="no other target 8 frames ahead"):
        loss([random_features(items=1)], make_batch(SPEAKERS[:1]))


def test_views_predict_each_their_own_future_and_are_averaged() -> None:
    loss, one, other = make_loss(sampling="same_time", window=None), random_features(), random_features()
    alone = [loss([view], make_batch()) for view in (one, other)]
    both = loss([one, other], make_batch())
    for name in ("accuracy", "bound"):
        torch.testing.assert_close(both.watched[name], sum(o.watched[name] for o in alone) / 2)
    torch.testing.assert_close(both.terms["infonce"], sum(o.terms["infonce"] for o in alone) / 2)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_half_precision_stays_close_and_scores_in_full(sampling: str) -> None:
    torch.manual_seed(0)
    loss = InfoNCE(block_spec(frames=140, channels=64), sampling=sampling, context="gru", bptt=False)
    target = torch.randn(4, 64, 140)
    values = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            given = target.bfloat16() if enabled else target
            output = loss([Features((given,), given)], make_batch())
        assert output.terms["infonce"].dtype == torch.float32
        values.append(output.terms["infonce"])
    values[1].backward()
    assert abs(values[0] - values[1]) < 0.01 * values[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


def own_context(loss: InfoNCE, features: Features) -> Tensor:
    context = loss._context_of(features, Reach(0, FRAMES, loss.steps))
    assert context is not None
    return context


@pytest.mark.parametrize("bptt", [True, False])
def test_own_context_equals_a_loop_over_time(bptt: bool) -> None:
    torch.manual_seed(0)
    loss = make_loss(block_spec(), context="gru", context_channels=CONTEXT, bptt=bptt)
    assert loss.gru is not None
    features = random_features(context=None)
    cell = nn.GRUCell(CHANNELS, CONTEXT).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in loss.gru.state_dict().items()})

    hidden, steps = torch.zeros(ITEMS, CONTEXT, dtype=torch.float64), []
    for t in range(FRAMES):
        hidden = cell(features.target[..., t], hidden if bptt else hidden.detach())
        steps.append(hidden)
    expected, context = torch.stack(steps, dim=-1), own_context(loss, features)

    torch.testing.assert_close(context, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(expected)
    given = torch.autograd.grad((context * weight).sum(), [features.target, *loss.gru.parameters()])
    wanted = torch.autograd.grad((expected * weight).sum(), [features.target, *cell.parameters()])
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bptt", [True, False])
def test_without_bptt_no_gradient_flows_to_earlier_frames(bptt: bool) -> None:
    loss = make_loss(block_spec(), context="gru", bptt=bptt)
    features = random_features(context=None)
    own_context(loss, features)[..., 6].sum().backward()
    assert features.target.grad is not None
    reached = (features.target.grad != 0).any(1).any(0).nonzero().flatten().tolist()
    assert reached == (list(range(7)) if bptt else [6])


def test_own_context_reads_the_second_draw_where_there_is_one() -> None:
    loss = make_loss(block_spec(), context="gru")
    drawn = random_features(context=CHANNELS)
    assert drawn.context is not None
    expected = own_context(loss, Features((), drawn.context))
    assert torch.equal(own_context(loss, drawn), expected)


def test_a_block_with_a_context_stage_gets_no_other_context() -> None:
    loss = make_loss(block_spec(context=CONTEXT), context="gru")
    assert loss.gru is None
    assert loss.predictors.weight.shape == (3 * CHANNELS, CONTEXT)


def test_nothing_flows_into_what_is_cut() -> None:
    loss, features = make_loss(), random_features()
    cut = Features((), features.target.detach(), features.context)
    loss([cut], make_batch()).terms["infonce"].backward()
    assert features.target.grad is None
    assert features.context is not None
    assert features.context.grad is not None


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_gradients_are_the_same_bits_every_time(sampling: str) -> None:
    # large enough for threads to share the work, with rows that are drawn many times
    torch.manual_seed(0)
    loss = InfoNCE(block_spec(frames=128, channels=64), sampling=sampling, steps=4)
    target = torch.randn(4, 64, 128)
    found = []
    for _ in range(4):
        torch.manual_seed(1)
        leaf = target.clone().requires_grad_()
        loss([Features((leaf,), leaf)], make_batch()).terms["infonce"].backward()
        found.append(leaf.grad)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_it_is_the_same_loss() -> None:
    loss, features = make_loss().train(), random_features()
    found = []
    for judge in (loss, torch.compile(loss, backend="aot_eager")):
        torch.manual_seed(0)
        value = judge((features,), make_batch()).terms["infonce"]
        found.append([value, *gradients_of(value, loss, features)])
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)


def test_parameters_with_the_encoder_are_as_many_as_published() -> None:
    with torch.device("meta"):
        encoder = SpeechConv()
        convs = [InfoNCE(block_spec(frames=128, channels=512)) for _ in range(5)]
        context = InfoNCE(block_spec(frames=128, channels=512, context=256))
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in {
        "encoder": encoder, "conv": convs[0], "context": context}.items()}  # fmt: skip
    assert count["encoder"] + 5 * count["conv"] + count["context"] == 23_143_424
    assert count["encoder"] + count["context"] == 7_414_784


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (block_spec(frames=12), {"steps": 12}, "12 frames ahead, but block 3 makes only 12"),
        (block_spec(frames=50), {"steps": [1, 8], "window": 8}, "8 frames ahead, but its window is 8"),
        (block_spec(labels={}), {"sampling": "speaker"}, "needs an item's label 'speaker'"),
        (block_spec(labels={"speaker": LabelSpec(3, hop=160)}), {"sampling": "speaker"}, "needs an item's label"),
    ],
)
def test_it_does_not_fit_a_block_that_lacks_what_it_needs(
    spec: BlockSpec, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DoesNotFit, match=message):
        make_loss(spec, **options)


def test_it_does_not_fit_images() -> None:
    spec = block_spec()
    image = MapSpec(3, (7, 7), (Axis("height"), Axis("width")))
    spec = BlockSpec(0, (0,), (image, image), 1, None, (), 1, spec.data)
    with pytest.raises(DoesNotFit, match=r"one axis, time, but the maps of block 0 have 2: \(7, 7\)"):
        make_loss(spec)


def test_it_fits_a_block_with_one_pair_for_the_largest_step() -> None:
    output = make_loss(block_spec(frames=13), steps=12, window=None)([random_features(13, context=None)], make_batch())
    assert output.terms["infonce"].isfinite()


def test_items_too_short_are_named_when_they_come() -> None:
    with pytest.raises(InfomaxError, match="3 frames ahead, but an item of this batch has only 3"):
        make_loss()([random_features(frames=3)], make_batch())


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": []}, {"steps": [0, 1]}, {"negatives": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InfomaxError, match=next(iter(options))):
        make_loss(**options)


# --- samplings -------------------------------------------------------------------------------------------------------

TIMES = torch.arange(6, 20)
WHOLE = 30  # frames of an item


def test_negatives_from_the_batch_come_from_all_of_it_and_no_set_repeats_one() -> None:
    torch.manual_seed(0)
    rows = _negatives.from_batch(3, WHOLE, TIMES, 50)
    assert rows.shape == (3, 14, 50)
    assert rows.unique().tolist() == list(range(90))
    for drawn in rows.flatten(0, 1).T:
        assert len(drawn.unique()) == 3 * 14


def test_negatives_from_the_sequence_stay_in_it_and_no_set_repeats_one() -> None:
    torch.manual_seed(0)
    rows = _negatives.from_sequence(3, WHOLE, TIMES, 50)
    assert rows.shape == (3, 14, 50)
    assert (rows // WHOLE == torch.arange(3).view(3, 1, 1)).all()
    assert (rows % WHOLE).unique().tolist() == list(range(WHOLE))
    for drawn in rows[0].T:
        assert len(drawn.unique()) == 14


def test_negatives_from_the_speaker_share_it_and_are_never_at_the_same_time() -> None:
    torch.manual_seed(0)
    speakers = torch.tensor([4, -1, 4, 5, -1, 4])
    rows = _negatives.from_speaker(speakers, WHOLE, TIMES, 60)
    assert rows.shape == (6, 14, 60)
    items = [rows[b].div(WHOLE, rounding_mode="floor").unique().tolist() for b in range(6)]
    assert items == [[0, 2, 5], [1], [0, 2, 5], [3], [4], [0, 2, 5]]
    assert (rows % WHOLE != TIMES.view(1, -1, 1)).all()
    assert (rows % WHOLE).unique().tolist() == list(range(WHOLE))


def test_negatives_from_other_targets_are_targets_and_never_the_own() -> None:
    torch.manual_seed(0)
    rows = _negatives.from_other_targets(3, WHOLE, TIMES, 300)
    own = _negatives.target_rows(3, WHOLE, TIMES)
    assert rows.shape == (3, 14, 300)
    assert (rows != own.unsqueeze(-1)).all()
    for b in range(3):
        for p in range(14):
            assert set(rows[b, p].tolist()) <= set(own.flatten().tolist())
    assert rows[1, 5].unique().numel() == 3 * 14 - 1
