"""Frozen features: aligned by geometry, pooled, told apart by item, and nothing learns while they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from infomax_cli.core.api import Axis, CorruptItem, Encoder, InfomaxError, Item, LabelSpec, PluginError, UsageError
from infomax_cli.core.baselines import Pixels
from infomax_cli.core.blocks import encode
from infomax_cli.core.features import FrozenEncoder, Layer, extract
from infomax_cli.core.rows import Rows, distinct
from infomax_cli.recipe import SamplingOptions
from toys import ImageEncoder, SpeechEncoder

CPU = torch.device("cpu")
PHONE = LabelSpec(5, hop=16, offset=20.0)
FINE = LabelSpec(7, hop=5, offset=2.4)  # finer than some maps, and never half-way between two frames
SPEAKER = LabelSpec(3)


def close(kept: Tensor, given: Tensor) -> None:
    """Equal but for the rounding to fp16."""
    torch.testing.assert_close(kept, given, atol=1e-6, rtol=2**-11)


class Items:
    """A split of given items; a seed crops to the first 64 samples."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.taken: list[tuple[int, int | None]] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        self.taken.append(key)
        index, seed = key
        item = self.items[index]
        return item if seed is None else Item(item.input[..., :64], item.labels, item.id)

    def item_labels(self, name: str) -> list[int]:
        return [int(item.labels[name]) for item in self.items]


def speech(*lengths: int, unknown: bool = True) -> Items:
    random = torch.Generator().manual_seed(0)
    items = []
    for index, length in enumerate(lengths):
        labels: dict[str, int | Tensor] = {"speaker": index % 3}
        for name, spec in {"phone": PHONE, "fine": FINE}.items():
            assert spec.hop is not None
            count = max(0, int((length - 1 - spec.offset) // spec.hop + 1))
            labels[name] = torch.randint(-1 if unknown else 0, spec.classes, (count,), generator=random)
        items.append(Item(torch.randn(1, length, generator=random), labels, f"item-{index}"))
    return Items(items)


def frozen(encoder: nn.Module, **sampling: str) -> FrozenEncoder:
    assert isinstance(encoder, Encoder)
    return FrozenEncoder(encoder, SamplingOptions(**sampling), CPU)  # type: ignore[arg-type]


def plain_rows(encoder: Encoder, split: Items, depth: int, name: str, spec: LabelSpec) -> list[tuple[Tensor, int, int]]:
    """Label by label: the mean of the frames centred in its cell, or the nearest frame."""
    assert spec.hop is not None
    (axis,) = encoder.geometry(depth)
    found = []
    for index, item in enumerate(split.items):
        frames = encode(encoder, item.input[None], SamplingOptions())[depth][0]
        centres = [axis.centre + axis.hop * t for t in range(frames.shape[1])]
        for place, value in enumerate(torch.as_tensor(item.labels[name]).tolist()):
            centre = spec.offset + spec.hop * place
            own = [t for t, c in enumerate(centres) if centre - spec.hop / 2 <= c < centre + spec.hop / 2]
            own = own or [min(range(len(centres)), key=lambda t, c=centre: abs(centres[t] - c))]  # type: ignore[misc]
            if value >= 0:
                found.append((frames[:, own].mean(1), value, index))
    return found


# --- aligned labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "spec"), [("phone", PHONE), ("fine", FINE)])
def test_every_known_label_gets_the_frames_in_its_cell(name: str, spec: LabelSpec) -> None:
    encoder, split = SpeechEncoder(), speech(160, 160, 131, 203)
    source = frozen(encoder)
    rows = extract(source, split, {name: spec}).rows[name]
    assert len(rows) == 4
    for depth, layer in enumerate(rows):
        expected = plain_rows(encoder, split, depth, name, spec)
        close(layer.features, torch.stack([row for row, _, _ in expected]))
        assert layer.labels.tolist() == [value for _, value, _ in expected]
        assert layer.items.tolist() == [index for _, _, index in expected]


def test_several_labels_are_read_in_one_pass() -> None:
    split = speech(160, 160, 131)
    source = frozen(SpeechEncoder())
    labels = {"phone": PHONE, "fine": FINE, "speaker": SPEAKER}
    together = extract(source, split, labels).rows
    assert split.taken == [(0, None), (1, None), (2, None)]
    for name, spec in labels.items():
        alone = extract(source, split, {name: spec}).rows[name]
        for one, other in zip(together[name], alone, strict=True):
            assert torch.equal(one.features, other.features)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.items, other.items)


def test_an_item_without_a_known_label_is_not_encoded() -> None:
    split = speech(160, 160, 160, unknown=False)
    split.items[1].labels["phone"].fill_(-1)  # type: ignore[union-attr]
    encoder, seen = SpeechEncoder(), []
    encoder.stages[0].register_forward_hook(lambda stage, given, made: seen.append(len(made)))
    rows = extract(frozen(encoder), split, {"phone": PHONE}).rows["phone"]
    assert sum(seen) == 2
    assert set(rows[0].items.tolist()) == {0, 2}


def test_a_map_without_time_gives_an_aligned_label_no_rows() -> None:
    class Pooled(SpeechEncoder):
        def readout(self, y: Tensor, stage: int) -> Tensor:
            return y.mean(-1) if stage == 3 else y

        def geometry(self, stage: int) -> tuple[Axis, ...]:
            return () if stage == 3 else super().geometry(stage)

    rows = extract(frozen(Pooled()), speech(160, 131), {"phone": PHONE, "speaker": SPEAKER}).rows
    assert [len(layer) > 0 for layer in rows["phone"]] == [True, True, True, False]
    assert [layer.features.shape for layer in rows["speaker"]] == [(2, 6), (2, 6), (2, 6), (2, 5)]


def test_frequency_is_averaged_over_where_time_is_kept() -> None:
    class Spectral:
        layers = (Layer("0", (Axis("frequency"), Axis("time", 16, 20.0))),)

        def maps(self, x: Tensor) -> tuple[Tensor, ...]:
            return (x.unfold(-1, 16, 16).unsqueeze(1).transpose(-1, -2).flatten(1, 2).expand(-1, 2, -1, -1),)

    split = speech(160, unknown=False)
    (rows,) = extract(Spectral(), split, {"phone": PHONE}).rows["phone"]
    means = split.items[0].input[0].unfold(0, 16, 16).mean(1)
    close(rows.features, means[: len(rows)].unsqueeze(1).expand(-1, 2))


# --- labels of whole items -------------------------------------------------------------------------------------------


def test_items_are_pooled_to_the_mean_the_last_frame_or_every_frame() -> None:
    encoder, split = SpeechEncoder(), speech(160, 131)
    maps = [encode(encoder, item.input[None], SamplingOptions())[2][0] for item in split.items]
    pooled = {pool: extract(frozen(encoder), split, {"speaker": SPEAKER}, pool=pool).rows["speaker"][2]
              for pool in ("mean", "last", "none")}  # type: ignore[arg-type]  # fmt: skip
    close(pooled["mean"].features, torch.stack([m.mean(1) for m in maps]))
    close(pooled["last"].features, torch.stack([m[:, -1] for m in maps]))
    close(pooled["none"].features, torch.cat([m.T for m in maps]))
    frames = [m.shape[1] for m in maps]
    assert pooled["none"].labels.tolist() == [0] * frames[0] + [1] * frames[1]
    assert pooled["none"].items.tolist() == [0] * frames[0] + [1] * frames[1]


def images(count: int) -> Items:
    random = torch.Generator().manual_seed(0)
    return Items([Item(torch.rand(3, 16, 16, generator=random), {"class": i % 4}, str(i)) for i in range(count)])


def test_images_are_pooled_over_their_grid_and_encoded_together() -> None:
    encoder, split, seen = ImageEncoder(), images(10), []
    encoder.stages[0].register_forward_hook(lambda stage, given, made: seen.append(len(made)))
    rows = extract(frozen(encoder), split, {"class": LabelSpec(4)}).rows["class"]
    assert seen == [10]
    maps = encode(encoder, torch.stack([item.input for item in split.items]), SamplingOptions())
    for layer, values in zip(rows, maps, strict=True):
        close(layer.features, values.mean((2, 3)))
    assert rows[0].labels.tolist() == [i % 4 for i in range(10)]
    every = extract(frozen(encoder), split, {"class": LabelSpec(4)}, pool="none").rows["class"]
    assert [len(layer) for layer in every] == [10 * 49, 10 * 25, 10]


def test_a_map_without_time_has_no_last_frame() -> None:
    with pytest.raises(UsageError, match="depth 0 has no time axis"):
        extract(frozen(ImageEncoder()), images(2), {"class": LabelSpec(4)}, pool="last")


def test_every_pixel_is_a_raw_feature() -> None:
    (rows,) = extract(Pixels(), images(3), {"class": LabelSpec(4)}).rows["class"]
    close(rows.features, torch.stack([item.input.flatten() for item in images(3).items]))


def test_crops_are_drawn_by_the_seeds_that_are_given() -> None:
    split = speech(160, 131)
    rows = extract(
        frozen(SpeechEncoder()), split, {"speaker": SPEAKER}, pool="none", item_seed=lambda index: 100 + index
    ).rows["speaker"]
    assert split.taken == [(0, 100), (1, 101)]
    assert [len(layer) for layer in rows] == [2 * 32, 2 * 16, 2 * 8, 2 * 8]


# --- nothing learns --------------------------------------------------------------------------------------------------


class WithNorm(SpeechEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.stages[1] = nn.Sequential(self.stages[1], nn.BatchNorm1d(6), nn.Dropout(0.5))


@pytest.mark.parametrize("make", [SpeechEncoder, WithNorm, lambda: SpeechEncoder(variational=True)])
def test_the_encoder_is_the_same_bit_for_bit_and_wants_no_gradient(make: Callable[[], nn.Module]) -> None:
    encoder = make().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    rows = extract(frozen(encoder), speech(160, 131), {"phone": PHONE}).rows["phone"]
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not encoder.training
    assert all(not p.requires_grad and p.grad is None for p in encoder.parameters())
    assert not any(layer.features.requires_grad for layer in rows)


def test_a_posterior_gives_its_mean_or_as_the_recipe_says_the_same_draw_each_time() -> None:
    encoder, split = SpeechEncoder(variational=True), speech(160, 131)
    mean, again = (extract(frozen(encoder), split, {"speaker": SPEAKER}).rows["speaker"][0] for _ in range(2))
    assert torch.equal(mean.features, again.features)
    draw, same, other = (
        extract(frozen(encoder, eval="sample"), split, {"speaker": SPEAKER}, seed=seed).rows["speaker"][0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(draw.features, same.features)
    assert not torch.equal(draw.features, other.features)
    assert not torch.equal(draw.features, mean.features)


def test_torch_s_own_randomness_is_left_as_it_was() -> None:
    source, split = frozen(SpeechEncoder(variational=True), eval="sample"), speech(160)
    before = torch.get_rng_state()
    extract(source, split, {"speaker": SPEAKER})
    assert torch.equal(torch.get_rng_state(), before)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_items_that_cannot_be_read_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    split, read = speech(200, 300, 400), Items.__getitem__

    def failing(self: Items, key: tuple[int, int | None]) -> Item:
        if key[0] == 1:
            raise CorruptItem("item-1 is truncated")
        return read(self, key)

    monkeypatch.setattr(Items, "__getitem__", failing)
    told: list[None] = []
    source = FrozenEncoder(SpeechEncoder(), SamplingOptions(), CPU)
    found = extract(source, split, {"speaker": SPEAKER}, advance=lambda: told.append(None))
    assert (found.corrupt, len(told)) == (1, 3)
    assert found.rows["speaker"][0].items.tolist() == [0, 2]


def test_items_too_short_for_the_encoder_are_left_out_and_counted() -> None:
    split = speech(160, 3, 1, 131)
    found = extract(frozen(SpeechEncoder()), split, {"speaker": SPEAKER})
    assert found.skipped == 2
    assert found.rows["speaker"][0].items.tolist() == [0, 3]


def test_an_encoder_that_fails_on_a_long_item_is_not_hushed_up() -> None:
    class Failing(SpeechEncoder):
        def prepare(self, x: Tensor) -> Tensor:
            raise InfomaxError("this encoder is broken")

    with pytest.raises(InfomaxError, match="broken"):
        extract(frozen(Failing()), speech(160), {"speaker": SPEAKER})


def test_an_item_that_lacks_its_label_names_itself() -> None:
    split = Items([Item(torch.randn(1, 160), {}, "bare")])
    with pytest.raises(PluginError, match="item bare lacks the label 'speaker'"):
        extract(frozen(SpeechEncoder()), split, {"speaker": SPEAKER})


def test_beyond_its_memory_it_keeps_fewer_frames_of_each_item() -> None:
    split = speech(*[1600] * 6, unknown=False)
    whole = extract(frozen(SpeechEncoder()), split, {"phone": PHONE})
    limit = 2 * whole.rows["phone"][0].values  # bytes of one layer, where four must share
    thin = extract(frozen(SpeechEncoder()), split, {"phone": PHONE}, limit=limit)
    assert (whole.thinned, thin.thinned) == (1, 4)
    assert sum(2 * layer.values for layer in thin.rows["phone"]) <= limit
    for layer in thin.rows["phone"]:
        assert set(layer.items.tolist()) == set(range(6))
        counts = layer.items.bincount()
        assert counts.max() - counts.min() <= 2
    again = extract(frozen(SpeechEncoder()), split, {"phone": PHONE}, limit=limit)
    assert torch.equal(again.rows["phone"][0].labels, thin.rows["phone"][0].labels)


def test_an_empty_split_gives_no_rows() -> None:
    rows = extract(frozen(SpeechEncoder()), Items([]), {"phone": PHONE}).rows["phone"]
    assert [len(layer) for layer in rows] == [0, 0, 0, 0]


def test_distinct_values_and_their_places() -> None:
    values = torch.tensor([7, 2, 2, 9, 7])
    found, places = distinct(values)
    assert found.tolist() == [2, 7, 9]
    assert torch.equal(found[places], values)
    rows = Rows(torch.arange(5.0).unsqueeze(1), values, torch.arange(5))
    assert rows.where(values == 7).items.tolist() == [0, 4]
