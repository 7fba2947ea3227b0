"""The encoders of Deep InfoMax have their published stages and sizes; crops are encoded apart; misfits are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Batch, DataSpec, Encoder, InfomaxError, LabelSpec
from infomax_cli.core.blocks import Block, describe_blocks, partition
from infomax_cli.recipe import Cut, SamplingOptions
from infomax_plugins.encoders._dim import DIMEncoder
from infomax_plugins.encoders._folding import Fold, OnCrops, Unfold
from infomax_plugins.encoders._spectrogram import Spectrogram
from infomax_plugins.encoders._stages import ChannelNorm, GridConv
from infomax_plugins.encoders.dim_convnet import DIMConvNet
from infomax_plugins.encoders.dim_resnet import DIMResNet, _bottleneck
from infomax_plugins.losses.local_dim import LocalDIM
from infomax_plugins.losses.prior_matching import PriorMatching

# Of every published layer list: the channels and the grid that each layer leaves, and its parameters, as they follow
# from the published kernels, strides, biases and norms; with the top layer of 64 units.
_TRUNK = [1856, 145408, 379392, 280064, 1512448, 1117184]
_DEEPER = [1856, 215808, 379392, 1400320, 1512448, 2234368]
PUBLISHED: dict[str, tuple[str, list[int]]] = {
    "basic28x28": ("64@14 128@7 1024@1 64@1", [1728, 205056, 6424576, 65600]),
    "basic32x32": ("64@16 128@8 256@4 1024@1 64@1", [3200, 131328, 524800, 4196352, 65600]),
    "basic64x64": ("64@32 128@16 256@8 512@4 1024@1 64@1", [3200, 131328, 524800, 2098176, 8390656, 65600]),
    "alex64x64": (
        "96@31 192@15 384@15 384@15 192@7 4096@1 4096@1 64@1",
        [2784, 166272, 664320, 1327872, 663936, 38543360, 16785408, 262208],
    ),
    "foldalex64x64": (
        "96@7 192@7 384@7 384@7 192@7 384@3 4096@1 64@1",
        [2880, 166464, 664704, 1328256, 664128, 664320, 14168064, 262208],
    ),
    "foldmultialex64x64": (
        "96@7 192@7 384@7 384@7 192@7 192@5 192@5",
        [2784, 166272, 664320, 1327872, 663936, 332160, 37248],
    ),
    "resnet19_32x32": ("64@16 256@16 512@8 512@8 1024@4 1024@4 1024@1 64@1", [*_TRUNK, 16779264, 65600]),
    "resnet34_32x32": ("64@16 256@16 512@8 512@8 1024@4 1024@4 1024@1 64@1", [*_DEEPER, 16779264, 65600]),
    "foldresnet19_32x32": ("64@7 256@7 512@7 512@7 1024@7 1024@7 1024@1 64@1", [*_TRUNK, 51382272, 65600]),
    # the published one leaves out the two layers with a stride, and has 55.7 M
    "foldresnet34_32x32": (
        "64@7 256@7 512@7 512@7 1024@7 1024@7 1024@1 64@1",
        [1856, 145408, 379392, 1400320, 1512448, 2234368, 51382272, 65600],
    ),
    "philish_resnet_32x32": (
        "32@30 64@14 64@14 512@7 512@7 512@5 512@5 512@3 512@3 64@1 64@1",
        [896, 70016, 8448, 527360, 526336, 4983808, 526336, 4983808, 526336, 594304, 4160],
    ),
    "philish_resnet_32x32_wide": (
        "256@30 512@14 512@14 1024@7 1024@7 1024@5 1024@5 1024@3 1024@3 1024@1 64@1",
        [7168, 4459520, 526336, 5249024, 2101248, 19929088, 2101248, 19929088, 2101248, 19929088 + 2048, 65600],
    ),
    "philish_resnet_64x64": (
        "32@62 64@30 64@30 128@14 128@14 512@7 512@7 512@5 512@5 512@3 512@3 64@1 64@1",
        [896, 70016, 8448, 279296, 33280, 789504, 526336, 4983808, 526336, 4983808, 526336, 594304 + 128, 4160],
    ),
    "philish_resnet_64x64_wide": (
        "256@62 512@30 512@30 1024@14 1024@14 1024@7 1024@7 1024@5 1024@5 1024@3 1024@3 1024@1 64@1",
        [
            *(7168, 4459520, 526336, 17831936, 2101248, 9443328, 2101248, 19929088, 2101248, 19929088, 2101248),
            *(19929088 + 2048, 65600),
        ],
    ),
}
LOCAL_MAPS = {
    "basic28x28": "128@7",
    "basic32x32": "128@8",
    "basic64x64": "256@8",
    "alex64x64": "384@15",
    "foldalex64x64": "192@7",
    "foldmultialex64x64": "192@7",
    "resnet19_32x32": "512@8",
    "resnet34_32x32": "512@8",
    "foldresnet19_32x32": "1024@7",
    "foldresnet34_32x32": "1024@7",
    "philish_resnet_32x32": "512@7",
    "philish_resnet_32x32_wide": "1024@7",
    "philish_resnet_64x64": "512@7",
    "philish_resnet_64x64_wide": "1024@7",
}
FOLDED = [name for name in PUBLISHED if name.startswith("fold")]


def make(config: str, **options: Any) -> DIMEncoder:
    torch.manual_seed(0)
    if config in ("basic28x28", "basic32x32", "basic64x64", "alex64x64", "foldalex64x64", "foldmultialex64x64"):
        return DIMConvNet(config=config, **options)  # type: ignore[arg-type]
    return DIMResNet(config=config, **options)  # type: ignore[arg-type]


def small(config: str, **options: Any) -> DIMEncoder:
    stages = len(PUBLISHED[config][1]) - (config != "foldmultialex64x64")
    return make(config, **{"widths": [4] * stages, "units": 6} | options)


def images(encoder: DIMEncoder, items: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(items, encoder.input.out_channels, encoder.side, encoder.side, generator=draw, dtype=dtype)


def every_map(encoder: DIMEncoder, x: Tensor) -> list[Tensor]:
    y = encoder.prepare(x)
    maps = []
    for place, stage in enumerate(encoder.stages):
        y = stage(y)
        maps.append(encoder.readout(y, place))
    return maps


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the published configurations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", PUBLISHED)
def test_stages_have_the_published_shapes_and_parameters(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, counts = PUBLISHED[config]
    monkeypatch.setattr(nn.init, "normal_", lambda weight, *_: weight)  # on the meta device it takes seconds of imports
    with torch.device("meta"):
        encoder = make(config).eval()
    encoder.to_empty(device="cpu")  # its weights, drawn by nobody, do not matter
    with torch.no_grad():
        maps = every_map(encoder, images(encoder, 1))
    assert isinstance(encoder, Encoder)
    assert [parameters(stage) for stage in encoder.stages] == counts
    assert " ".join(f"{y.shape[1]}@{y.shape[2]}" for y in maps) == shapes
    assert all(y.shape[0] == 1 and y.shape[2] == y.shape[3] for y in maps)
    local = maps[encoder.local_stage]
    assert f"{local.shape[1]}@{local.shape[2]}" == LOCAL_MAPS[config]


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        ("basic28x28", 6.7),
        ("basic32x32", 4.9),
        ("basic64x64", 11.2),
        ("alex64x64", 58.4),
        ("foldalex64x64", 17.9),
        ("foldmultialex64x64", 3.2),
        ("resnet19_32x32", 20.3),
        ("resnet34_32x32", 22.6),
        ("foldresnet19_32x32", 54.9),
        ("philish_resnet_32x32", 12.8),
        ("philish_resnet_32x32_wide", 76.4),
        ("philish_resnet_64x64", 13.3),
        ("philish_resnet_64x64_wide", 100.5),
    ],
)
def test_the_sums_are_those_of_the_published_code_when_run(config: str, millions: float) -> None:
    assert round(sum(PUBLISHED[config][1]) / 1e6, 1) == millions


@pytest.mark.parametrize("config", PUBLISHED)
def test_geometry_is_the_receptive_field_that_gradients_show(config: str) -> None:
    encoder = small(config).double().eval()
    for parameter in encoder.parameters():
        nn.init.ones_(parameter)  # so that no ReLU is off and nothing cancels
    for name, module in list(encoder.named_modules()):
        if isinstance(module, nn.MaxPool2d):  # a maximum has a gradient at one place of its window
            encoder.set_submodule(name, nn.AvgPool2d(module.kernel_size, module.stride))
        if isinstance(module, ChannelNorm):  # equal channels have no gradient through it
            encoder.set_submodule(name, nn.Identity())
    ones = torch.ones_like(images(encoder, 1, torch.float64))
    for stage, y in enumerate(every_map(encoder, ones)):
        x = ones.clone().requires_grad_()
        place = y.shape[2] // 2
        every_map(encoder, x)[stage][0, 0, place, 0].backward()
        assert x.grad is not None
        for axis, at, seen in zip(
            encoder.geometry(stage), (place, 0), (x.grad[0, 0].sum(1), x.grad[0, 0].sum(0)), strict=True
        ):
            first = axis.centre + axis.hop * at - (axis.field - 1) / 2
            last = first + axis.field - 1
            found = seen.nonzero().flatten()
            assert (int(found[0]), int(found[-1])) == (max(0, first), min(encoder.side - 1, last))


@pytest.mark.parametrize("stage", [-2, 5])
def test_a_stage_that_is_not_there_has_no_geometry(stage: int) -> None:
    with pytest.raises(IndexError, match="stages 0 to 4"):
        small("basic32x32").geometry(stage)


def test_weights_begin_as_published() -> None:
    encoder = make("foldalex64x64", widths=[32, 32, 32, 32, 32, 32, 64])
    convs = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    drawn = [*convs[:5], convs[6]]  # of the strided convolution and of the top layer torch's own
    for conv in drawn[1:]:
        assert 0.018 < float(conv.weight.detach().std()) < 0.022
    assert float(convs[5].weight.detach().abs().max()) <= (32 * 9) ** -0.5  # uniform
    dropped = [module.p for module in encoder.modules() if isinstance(module, nn.Dropout2d)]
    assert dropped == [0.1, 0.1]


# --- what stages are made of -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [5, 9])
def test_a_fully_connected_stage_is_a_convolution_whose_kernel_is_the_grid(columns: int) -> None:
    torch.manual_seed(0)
    layer = GridConv(3, 4, 5).double()
    plain = nn.Conv2d(3, 4, 5).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 5, columns, dtype=torch.float64)
    given, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    made, expected = layer(given), plain(wanted)
    torch.testing.assert_close(made, expected)
    weights = torch.randn_like(expected)
    (made * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(given.grad, wanted.grad)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)  # type: ignore[union-attr]


def test_a_fully_connected_stage_flattens_channels_first_as_published() -> None:
    torch.manual_seed(0)
    layer, x = GridConv(3, 4, 5), torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    flat = F.linear(x.reshape(2, -1), layer.weight.reshape(4, -1), layer.bias)
    torch.testing.assert_close(layer(x), flat.view(2, 4, 1, 1))


@pytest.mark.parametrize(("channels", "width", "stride"), [(8, 8, 1), (4, 8, 1), (8, 8, 2), (4, 8, 2)])
def test_a_bottleneck_equals_its_formula(channels: int, width: int, stride: int) -> None:
    torch.manual_seed(0)
    block = _bottleneck(channels, width, stride).double()
    x = torch.randn(3, channels, 6, 6, dtype=torch.float64)

    def normalised(y: Tensor) -> Tensor:
        return (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    y = F.relu(normalised(F.conv2d(x, convs[0].weight)))
    y = F.relu(normalised(F.conv2d(y, convs[1].weight, stride=stride, padding=1)))
    y = normalised(F.conv2d(y, convs[2].weight))
    projected = channels != width or stride > 1
    assert len(convs) == 3 + projected
    kept = normalised(F.conv2d(x, convs[3].weight, stride=stride)) if projected else x
    torch.testing.assert_close(block(x), F.relu(y + kept))


def test_channel_norm_equals_its_formula() -> None:
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    torch.testing.assert_close(ChannelNorm(5).double()(x), (x - mean) / (var + 1e-5).sqrt())


# --- strided crops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 16, 40), (2, 3, 35, 32)])
def test_crops_are_those_of_the_loop_over_rows_and_columns(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    crops = Unfold(8)(x)
    place = 0
    for row in range(0, shape[2] - 7, 4):
        for column in range(0, shape[3] - 7, 4):
            torch.testing.assert_close(crops[:, place], x[:, :, row : row + 8, column : column + 8])
            place += 1
    assert crops.shape[1] == place


def test_folding_puts_crops_back_on_their_grid() -> None:
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    folded = Fold(Unfold(8).rows(16))(Unfold(8)(x))
    for row in range(3):
        for column in range(5):
            crop = x[:, :, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
            torch.testing.assert_close(folded[:, :, row, column], crop.mean((2, 3)))


@pytest.mark.parametrize("config", FOLDED)
def test_each_crop_is_encoded_alone(config: str) -> None:
    encoder = small(config).double().eval()
    x = images(encoder, 2, torch.float64)
    maps = every_map(encoder, x)
    trunk = [module.layers for module in encoder.modules() if isinstance(module, OnCrops)]
    side = {"foldalex64x64": 16, "foldmultialex64x64": 16}.get(config, 8)
    for row, column in [(0, 0), (2, 5), (6, 6)]:
        top, left = row * side // 2, column * side // 2
        y = encoder.prepare(x)[:, :, top : top + side, left : left + side]
        for layers, found in zip(trunk, maps, strict=False):
            y = layers(y)
            torch.testing.assert_close(found[:, :, row, column], y.mean((2, 3)))
        assert y.shape[2:] == (1, 1)


@pytest.mark.parametrize("config", FOLDED)
def test_an_image_has_one_code_whatever_stands_beside_it(config: str) -> None:
    encoder = small(config, units=6).double().eval()
    x = images(encoder, 3, torch.float64)
    together = every_map(encoder, x)[-1]
    assert together.shape[:2] == (3, 6)
    torch.testing.assert_close(together[1:2], every_map(encoder, x[1:2])[-1])


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_change_width_top_layer_channels_and_size() -> None:
    assert [
        y.shape[1:] for y in every_map(small("basic32x32", units=0, channels=1, size=16), torch.zeros(2, 1, 16, 16))
    ] == [
        (4, 8, 8),
        (4, 4, 4),
        (4, 2, 2),
        (4, 1, 1),
    ]
    assert every_map(small("foldmultialex64x64", units=7), torch.zeros(2, 3, 64, 64))[-1].shape == (2, 7, 1, 1)
    assert [y.shape[2] for y in every_map(small("foldresnet19_32x32", size=64), torch.zeros(2, 3, 64, 64))] == [
        15
    ] * 6 + [1, 1]


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ("basic32x32", {"units": -1}, "dim_convnet basic32x32: units is -1"),
        ("basic32x32", {"widths": [4, 4]}, r"widths must be 4 positive numbers.*not \[4, 4\]"),
        ("basic32x32", {"widths": [4, 4, 0, 4]}, "widths must be 4 positive numbers"),
        ("basic32x32", {"size": 4}, "basic32x32: maps of 1x1 are too small"),
        ("foldalex64x64", {"size": 12}, "size is 12, but it reads crops of 16"),
        ("basic32x32", {"channels": 0}, "channels is 0"),
        (
            "resnet19_32x32",
            {"widths": [4, 6, 8, 8, 8, 8, 4]},
            "dim_resnet: bottlenecks end in a multiple of 4 channels, not in 6",
        ),
        ("basic32x32", {"channels": 3, "spectrogram": Spectrogram()}, "a spectrogram has one channel"),
    ],
)
def test_options_that_make_no_sense_are_refused(config: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InfomaxError, match=said):
        make(config, **options)


def test_images_of_another_size_are_refused_in_one_line() -> None:
    with pytest.raises(
        InfomaxError, match=r"dim_convnet basic32x32 was built for images of 32x32 pixels, but these have 64x64"
    ) as refused:
        small("basic32x32").prepare(torch.zeros(2, 3, 64, 64))
    assert refused.value.hint == "data.size=32 brings images to that size, encoder.size builds it for another"


def test_a_batch_of_one_is_encoded_but_does_not_train_batch_norm_on_one_position() -> None:
    encoder = small("basic32x32")
    with pytest.raises(InfomaxError, match="learns nothing from a batch of one item"):
        every_map(encoder, images(encoder, 1))
    assert every_map(encoder.eval(), images(encoder, 1))[-1].shape == (1, 6, 1, 1)
    assert every_map(small("foldmultialex64x64"), torch.rand(1, 3, 64, 64))[-1].shape == (1, 6, 1, 1)


# --- sound -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["basic64x64", "alex64x64", "foldalex64x64", "philish_resnet_64x64"])
def test_sound_is_read_as_a_spectrogram_and_longer_sound_makes_longer_maps(config: str) -> None:
    encoder = small(config, spectrogram=Spectrogram()).eval()
    crop = every_map(encoder, torch.randn(2, 1, 10240))
    assert crop[-1].shape == (2, 6, 1, 1)
    longer = every_map(encoder, torch.randn(2, 1, 2 * 10240))
    for short, long in zip(crop, longer, strict=True):
        assert long.shape[:3] == short.shape[:3]
        assert long.shape[3] > short.shape[3]
    axis = encoder.geometry(-1)[1]
    assert (axis.name, axis.hop, encoder.geometry(0)[0].name) == ("time", 160, "frequency")
    with pytest.raises(InfomaxError, match="needs at least 10240 samples to make 64 frames"):
        encoder.prepare(torch.zeros(2, 1, 10239))


def test_frames_of_longer_sound_lie_where_the_geometry_tells() -> None:
    encoder = small("basic64x64", spectrogram=Spectrogram()).double().eval()
    x = torch.randn(1, 1, 4 * 10240, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = encoder.geometry(5)[1]
    shift = 2 * axis.hop  # two positions later
    late = every_map(encoder, x[..., shift:])[-1]
    torch.testing.assert_close(every_map(encoder, x)[-1][..., 4], late[..., 2])  # far from the ends


# --- with their losses -----------------------------------------------------------------------------------------------


def blocks_of(encoder: DIMEncoder, cut: Cut, judges: list[tuple[type[nn.Module], dict[str, Any]]]) -> list[Block]:
    grid = (encoder.side, encoder.side)
    data = DataSpec(encoder.input.out_channels, grid, ("height", "width"), None, {"class": LabelSpec(4)}, {"train": 8})
    made = []
    for spec in describe_blocks(encoder, partition(len(encoder.stages), cut), data, 1):
        losses = {kind.__name__: kind(spec, **options) for kind, options in judges}
        made.append(Block(encoder, spec, losses, dict.fromkeys(losses, 1.0), SamplingOptions()))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("config", PUBLISHED)
def test_the_published_local_map_and_global_are_judged(config: str) -> None:
    encoder = small(config, units=None)
    local = encoder.local_stage + 1  # the block's input comes first
    options = {"local_map": local, "global_map": -1, "units": 8}
    (block,) = blocks_of(encoder, "none", [(LocalDIM, options), (PriorMatching, {"layers": [4]})])
    output = block([encoder.prepare(images(encoder, 4))], Batch((), {}, ()))
    assert output.total is not None
    output.total.backward()
    assert torch.isfinite(output.total)
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("config", ["basic32x32", "resnet19_32x32", "foldalex64x64", "foldresnet34_32x32"])
def test_every_stage_with_positions_learns_by_local_dim_alone(config: str) -> None:
    encoder = small(config)
    inputs: tuple[Tensor, ...] = (encoder.prepare(images(encoder, 4)),)
    spatial = [place for place, y in enumerate(every_map(encoder.eval(), images(encoder, 2))) if y.shape[2] > 1]
    encoder.train()
    # the stages above have one position and are one block: its local map is its input
    for block in blocks_of(encoder, [*spatial], [(LocalDIM, {"units": 8})]):
        output = block(inputs, Batch((), {}, ()))
        assert output.total is not None
        output.total.backward()
        assert all(parameter.grad is not None for parameter in block.stages.parameters())
        inputs = output.outputs
