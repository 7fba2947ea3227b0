"""The encoder of AMDIM keeps its published shapes and sizes, and its receptive fields are nested."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Axis, DataSpec, Encoder, InfomaxError
from infomax_cli.core.blocks import check_ownership, describe_blocks, encode, partition
from infomax_cli.recipe import SamplingOptions
from infomax_plugins.encoders._spectrogram import Spectrogram
from infomax_plugins.encoders.amdim_resnet import AMDIMResNet, ResidualLayer, Window
from infomax_plugins.losses.amdim import AMDIM

GRIDS = {32: [30, 30, 14, 7, 5, 3, 1], 64: [62, 30, 14, 7, 5, 3, 1], 128: [64, 62, 30, 14, 7, 5, 3, 1]}

# size, ndf, n_rkhs, depth: the parameters of the encoder alone, those of encoder and loss, and how many of these belong
# to batch normalisations that the published code owns whether it uses them or not
PUBLISHED = {
    (32, 64, 256, 3): (3_172_608, 3_574_912, 7_552),
    (64, 64, 512, 3): (12_864_256, 14_455_808, 15_616),
    (128, 64, 512, 3): (12_904_256, 14_495_808, 15_616),
    (64, 128, 1024, 3): (51_451_392, 57_780_224, 31_232),  # the defaults, on STL-10
    (128, 192, 1536, 8): (194_254_272, 208_523_712, 104_448),  # 194 M in the paper
    (128, 256, 2048, 10): (400_907_520, 426_255_616, 169_984),
    (128, 320, 2560, 10): (626_410_560, 665_960_000, 212_480),  # 626 M in the paper
    (32, 256, 2048, 10): (111_029_248, 127_905_280, 86_528),  # the large one for CIFAR
}


def small(size: int = 32, **options: Any) -> AMDIMResNet:
    torch.manual_seed(0)
    return AMDIMResNet(**{"size": size, "ndf": 2, "n_rkhs": 20, "depth": 2} | options)


def randomised(encoder: AMDIMResNet) -> AMDIMResNet:
    """With branches that do something."""
    for layer in encoder.modules():
        if isinstance(layer, ResidualLayer):
            nn.init.kaiming_uniform_(layer.conv2.weight)
    return encoder


def images_spec(size: int, channels: int = 3) -> DataSpec:
    return DataSpec(channels, (size, size), ("height", "width"), None, {}, {"train": 4})


def every_map(encoder: AMDIMResNet, x: Tensor) -> list[Tensor]:
    y = encoder.prepare(x)
    maps = []
    for stage in encoder.stages:
        y = stage(y)
        maps.append(y)
    return maps


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("size", GRIDS)
def test_maps_have_the_published_grids_and_widths(size: int) -> None:
    maps = every_map(small(size).eval(), torch.rand(2, 3, size, size))
    assert [tuple(y.shape[2:]) for y in maps] == [(side, side) for side in GRIDS[size]]
    wide = 4 if size == 32 else 8
    stem = {32: [1, 1, 2, 4], 64: [1, 2, 4, 8], 128: [1, 1, 2, 4, 8]}[size]
    assert [y.shape[1] for y in maps] == [2 * multiple for multiple in [*stem, wide, wide]] + [20]


@pytest.mark.parametrize("options", PUBLISHED)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_encoder_and_loss_have_the_published_numbers_of_parameters(
    options: tuple[Any, int, int, int], batch_norm: bool
) -> None:
    size, ndf, n_rkhs, depth = options
    with torch.device("meta"):
        encoder = AMDIMResNet(size=size, ndf=ndf, n_rkhs=n_rkhs, depth=depth, batch_norm=batch_norm)
        (spec,) = describe_blocks(encoder, partition(len(encoder.stages), "none"), images_spec(size), views=2)
        loss = AMDIM(spec, batch_norm=batch_norm)
    alone, published, idle = PUBLISHED[options]
    assert parameters(encoder, loss) == (published if batch_norm else published - idle)
    if not batch_norm:
        assert parameters(encoder) == alone


@pytest.mark.parametrize(("size", "stage"), [(size, stage) for size in GRIDS for stage in range(len(GRIDS[size]))])
def test_geometry_is_the_receptive_field_that_gradients_show(size: int, stage: int) -> None:
    encoder = small(size, ndf=1, n_rkhs=8, depth=1).double().eval()
    for parameter in encoder.parameters():
        nn.init.ones_(parameter)  # so that no ReLU is off and nothing cancels
    x = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        encoder.input.mean.zero_()
    place = GRIDS[size][stage] // 2
    every_map(encoder, x)[stage][0, 0, place, place].backward()
    assert x.grad is not None
    for axis, seen in zip(encoder.geometry(stage), (x.grad.sum((0, 1, 3)), x.grad.sum((0, 1, 2))), strict=True):
        places = seen.nonzero().flatten()
        lowest, highest = places[0].item(), places[-1].item()
        centre = axis.centre + axis.hop * place
        assert lowest == max(0, centre - (axis.field - 1) / 2)
        assert highest == min(size - 1, centre + (axis.field - 1) / 2)


@pytest.mark.parametrize("size", [32, 64])
def test_what_lies_outside_a_receptive_field_changes_nothing(size: int) -> None:
    """Of the 7x7 and 5x5 maps that the loss compares: fields lie within the image, and nothing else is seen."""
    encoder = randomised(small(size)).double().eval()
    x = torch.rand(1, 3, size, size, dtype=torch.float64)
    maps = every_map(encoder, x)
    for grid in (7, 5):
        stage = GRIDS[size].index(grid)
        axis, _ = encoder.geometry(stage)
        for row, column in ((0, 0), (2, 4), (grid - 1, 1)):
            low = [round(axis.centre + axis.hop * place - (axis.field - 1) / 2) for place in (row, column)]
            high = [first + axis.field for first in low]
            assert min(low) >= 0
            assert max(high) <= size
            outside = torch.ones(size, size, dtype=torch.bool)
            outside[low[0] : high[0], low[1] : high[1]] = False
            elsewhere = every_map(encoder, torch.where(outside, torch.rand_like(x), x))[stage]
            here = every_map(encoder, torch.where(outside, x, torch.rand_like(x)))[stage]
            assert torch.equal(elsewhere[..., row, column], maps[stage][..., row, column])
            assert not torch.isclose(here[..., row, column], maps[stage][..., row, column]).all()


def test_published_geometry() -> None:
    assert [small(32).geometry(stage)[0].field for stage in range(-1, 7)] == [1, 3, 3, 6, 8, 16, 24, 32]
    assert [small(64).geometry(stage)[0].hop for stage in range(-1, 7)] == [1, 1, 2, 4, 8, 8, 8, 8]
    assert small(64).geometry(6)[0].field == 64
    assert small(128).geometry(0)[1] == Axis("width", hop=2, centre=0.0, field=5)
    assert small(128).geometry(7)[0].field > 128 - 8


@pytest.mark.parametrize("stage", [-2, 7])
def test_a_stage_that_is_not_there_has_no_geometry(stage: int) -> None:
    with pytest.raises(IndexError):
        small().geometry(stage)


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [Window(1), Window(2, 2), Window(3), Window(4, 2)])
@pytest.mark.parametrize(("channels", "width"), [(3, 3), (3, 5)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_residual_layer_equals_its_definition(window: Window, channels: int, width: int, batch_norm: bool) -> None:
    torch.manual_seed(0)
    layer = ResidualLayer(channels, width, window, batch_norm).double()
    nn.init.normal_(layer.conv2.weight)
    x = torch.randn(2, channels, 8, 8, dtype=torch.float64)

    hidden = F.conv2d(x, layer.conv1.weight, stride=window.stride)
    if batch_norm:
        variance, mean = torch.var_mean(hidden, (0, 2, 3), keepdim=True, unbiased=False)
        hidden = (hidden - mean) / (variance + 1e-5).sqrt()
    branch = torch.einsum("oc,bchw->bohw", layer.conv2.weight[:, :, 0, 0], hidden.clamp(min=0))
    for o in range(width):
        for row in range(branch.shape[2]):
            for column in range(branch.shape[3]):
                top, left = window.stride * row, window.stride * column
                seen = x[:, :, top : top + window.kernel, left : left + window.kernel].mean((2, 3))
                if o < channels:
                    branch[:, o, row, column] += seen[:, o]
    torch.testing.assert_close(layer(x), branch, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_every_branch_starts_at_zero_and_can_leave_it(batch_norm: bool) -> None:
    encoder = small(batch_norm=batch_norm)
    layers = [module for module in encoder.modules() if isinstance(module, ResidualLayer)]
    assert len(layers) == 1 + 4 * 2 + 1
    y = encoder.stages[0](encoder.prepare(torch.rand(4, 3, 32, 32)))
    for layer in layers:
        assert torch.equal(layer(y), layer._shortcut(y))
        y = layer(y)
    y.square().sum().backward()
    assert all(layer.conv2.weight.grad.abs().sum() > 0 for layer in layers[:-1])  # type: ignore[union-attr]
    assert all(layer.conv1.weight.abs().max() <= layer.conv1.weight[0].numel() ** -0.5 for layer in layers)


@pytest.mark.parametrize(("size", "pools"), [(32, 5), (64, 6)])
def test_no_mean_of_a_single_pixel_is_taken(size: int, pools: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the published 14 and 16 pools of an encoder of depth 3 the rest are copies."""
    kernels: list[int] = []
    pool = F.avg_pool2d
    monkeypatch.setattr(F, "avg_pool2d", lambda x, kernel, stride: (kernels.append(kernel), pool(x, kernel, stride))[1])
    every_map(small(size, depth=3), torch.rand(2, 3, size, size))
    assert len(kernels) == pools
    assert min(kernels) > 1


def test_the_last_map_is_normalised_over_the_batch() -> None:
    encoder = randomised(small()).double()
    (*_, last) = every_map(encoder, torch.rand(16, 3, 32, 32, dtype=torch.float64))
    torch.testing.assert_close(last.mean((0, 2, 3)), torch.zeros(20, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (last.var((0, 2, 3), unbiased=False) > 0.9).all()
    weights = [name for name in encoder.state_dict() if "norm" in name]
    assert len(weights) == 5  # of one normalisation


def test_with_batch_norm_the_7x7_map_is_normalised_too() -> None:
    encoder = randomised(small(batch_norm=True)).double()
    maps = every_map(encoder, torch.rand(4, 3, 32, 32, dtype=torch.float64))
    mean = maps[GRIDS[32].index(7)].mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)


def test_the_stem_of_128_pixels_reflects_at_its_borders() -> None:
    encoder = small(128).double()
    x = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    conv = encoder.stages[0].conv
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    torch.testing.assert_close(encoder.stages[0](x), F.relu(F.conv2d(padded, conv.weight, conv.bias, stride=2)))


# --- sound -----------------------------------------------------------------------------------------------------------

HOP = Spectrogram().hop


def hearing(size: Any = 32, **options: Any) -> AMDIMResNet:
    return small(size, spectrogram=Spectrogram(), **options)


def sound(frames: int, items: int = 2) -> Tensor:
    return torch.randn(items, 1, frames * HOP, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_sound_of_as_many_frames_as_bands_makes_the_maps_of_images() -> None:
    for size in (32, 64):
        maps = every_map(hearing(size).double(), sound(size))
        assert [tuple(y.shape[2:]) for y in maps] == [(side, side) for side in GRIDS[size]]
    data = DataSpec(1, (32 * HOP,), ("time",), 16000, {}, {"train": 4})
    (spec,) = describe_blocks(hearing(), partition(7, "none"), data, views=2)
    assert [task.name for task in AMDIM(spec).tasks] == ["1x1_to_5x5", "1x1_to_7x7", "5x5_to_5x5"]
    assert [axis.name for axis in spec.output.axes] == ["frequency", "time"]


def test_longer_sound_makes_more_columns_each_of_what_it_sees() -> None:
    """Column ``t`` of every map is what the sound about its centre makes, and lies there."""
    encoder = randomised(hearing()).double().eval()
    x = sound(80, items=1)
    whole = every_map(encoder, x)
    assert [tuple(y.shape[2:]) for y in whole][-4:] == [(7, 19), (5, 17), (3, 15), (1, 13)]
    for stage in (3, 6):
        _, time = encoder.geometry(stage)
        assert time.hop == 4 * HOP
        first = time.centre - (time.field - 1) / 2
        shifted = every_map(encoder, x[..., time.hop * 3 :])[stage]
        # the first columns, whose windows reach over the edge, see it mirrored
        edge = math.ceil(max(0.0, -first) / time.hop)
        torch.testing.assert_close(shifted[..., edge:-1], whole[stage][..., 3 + edge : -1])
    assert encoder.geometry(6)[1].field == 31 * HOP + 400
    assert encoder.geometry(6)[0].field == 32


def test_its_last_map_is_normalised_over_items_and_columns() -> None:
    last = every_map(hearing().double(), sound(40))[-1]
    assert last.shape == (2, 20, 1, 3)
    torch.testing.assert_close(last.mean((0, 2, 3)), torch.zeros(20, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("encoder", "shape", "message", "hint"),
    [
        (hearing, (2, 3, 32, 32), "takes a spectrogram of sound of one channel", "leave out encoder.spectrogram"),
        (hearing, (2, 1, 31 * HOP), "needs at least 5120 samples to make 32 frames", "longer crops"),
        (small, (2, 1, 32 * HOP), "reads images", "encoder.spectrogram={}"),
    ],
)
def test_sound_and_images_are_not_mistaken_for_each_other(encoder: Any, shape: Any, message: str, hint: str) -> None:
    with pytest.raises(InfomaxError, match=f"^amdim_resnet {message}") as caught:
        encoder().prepare(torch.zeros(shape))
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_spectrogram_has_one_channel_and_one_mean() -> None:
    for options in ({"channels": 3}, {"mean": [0.0, 0.0]}):
        with pytest.raises(InfomaxError, match=r"^amdim_resnet: .* spectrogram"):
            hearing(**options)


# --- what goes in, what comes out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mean", "std"),
    [
        (32, [125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255]),
        (64, [0.43, 0.42, 0.39], [0.27, 0.26, 0.27]),
        (128, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ],
)
def test_prepare_normalises_as_published(size: int, mean: list[float], std: list[float]) -> None:
    x = torch.rand(2, 3, size, size)
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(small(size).prepare(x), expected)


def test_normalisation_travels_with_the_weights() -> None:
    given, taken = small(mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 4.0]), small()
    taken.load_state_dict(given.state_dict())
    expected = torch.tensor([0.9, 0.4, 0.175])
    torch.testing.assert_close(taken.prepare(torch.ones(1, 3, 32, 32))[0, :, 0, 0], expected)
    assert not dict(given.named_parameters()).keys() & {"input.mean", "input.std"}


def test_images_of_one_channel_are_brought_to_minus_one_to_one() -> None:
    encoder = small(channels=1)
    assert encoder.prepare(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 32, 32)).unique().tolist() == [-1, 1]
    assert every_map(encoder, torch.rand(2, 1, 32, 32))[-1].shape == (2, 20, 1, 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 32, 31), "built for images of 32x32 pixels, but these have 32x31"),
        ((2, 3, 96, 96), "built for images of 32x32 pixels, but these have 96x96"),
        ((2, 1, 32, 32), "built for images of 3 channels, but these have 1"),
        ((2, 1, 20480), r"reads images, \(B, C, H, W\), not \(2, 1, 20480\)"),
    ],
)
def test_other_input_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InfomaxError, match=f"^amdim_resnet (was )?{message}$") as caught:
        small().prepare(torch.zeros(shape))
    assert caught.value.hint


def test_data_of_another_size_are_refused_before_any_are_read() -> None:
    encoder = small()
    with pytest.raises(InfomaxError, match="but these have 64x64") as caught:
        describe_blocks(encoder, partition(7, "none"), images_spec(64), views=2)
    assert caught.value.hint == "encoder.size takes 32, 64, 128; data.size brings images to one of them"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndf": 64, "n_rkhs": 255}, "n_rkhs is 255, but its blocks end 4 ndf = 256 channels wide"),
        ({"size": 64, "ndf": 64, "n_rkhs": 256}, "n_rkhs is 256, but its blocks end 8 ndf = 512 channels wide"),
        ({"ndf": 0}, "ndf is 0, but must be at least 1"),
        ({"depth": 0}, "depth is 0, but must be at least 1"),
        ({"channels": 0}, "channels is 0, but must be at least 1"),
        ({"mean": [0.5, 0.5]}, "mean must have one value, or one for each channel, 3 in all"),
        ({"std": [0.5, 0.5, 0.0]}, "std is .*, but must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InfomaxError, match=f"^amdim_resnet: {message}"):
        small(**options)


def test_a_batch_of_one_image_is_refused_in_training_alone() -> None:
    encoder = small()
    with pytest.raises(InfomaxError, match="over the images of a batch, but this batch has one"):
        every_map(encoder, torch.rand(1, 3, 32, 32))
    assert every_map(encoder.eval(), torch.rand(1, 3, 32, 32))[-1].shape == (1, 20, 1, 1)


def test_half_precision_runs_and_stays_close() -> None:
    encoder = randomised(small(ndf=8, n_rkhs=64)).eval()
    x = torch.rand(4, 3, 32, 32)
    exact = every_map(encoder, x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = every_map(encoder, x)
    for one, other in zip(exact, rounded, strict=True):
        assert (one - other).norm() < 0.03 * one.norm()


def test_the_encoder_keeps_the_contract() -> None:
    encoder = small()
    assert isinstance(encoder, Encoder)
    check_ownership(encoder)
    encoder.eval()
    x = torch.rand(2, 3, 32, 32)
    for one, other in zip(encode(encoder, x, SamplingOptions()), every_map(encoder, x), strict=True):
        assert torch.equal(one, other)
    specs = describe_blocks(encoder, partition(7, "each"), images_spec(32), views=2)
    assert [spec.output.grid[0] for spec in specs] == GRIDS[32]
