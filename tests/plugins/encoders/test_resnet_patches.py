"""The patch encoder keeps its published shape and size; patches know nothing of each other, nor rows of those below."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_blocks import block_spec
from infomax_cli.core.api import Axis, Batch, DataSpec, Encoder, InfomaxError, LabelSpec
from infomax_cli.core.blocks import Block, check_ownership, describe_blocks, encode, partition, prepare
from infomax_cli.recipe import Cut, SamplingOptions
from infomax_plugins.encoders._pixelcnn import PixelCNN
from infomax_plugins.encoders._preact import delta_orthogonal_
from infomax_plugins.encoders._spectrogram import Spectrogram
from infomax_plugins.encoders.resnet_patches import PatchContext, ResNetPatches
from infomax_plugins.losses.patch_infonce import PatchInfoNCE
from infomax_plugins.losses.supervised import Supervised

IMAGES = DataSpec(1, (16, 16), ("height", "width"), None, {"class": LabelSpec(4)}, {"train": 8})


def small(**options: Any) -> ResNetPatches:
    """16x16 pixels, patches of 4 by 2: a grid of 7x7."""
    torch.manual_seed(0)
    known = {
        "size": 16,
        "patch": 4,
        "stride": 2,
        "channels": None if "spectrogram" in options else 1,
        "widths": (4, 6),
        "blocks": (1, 2),
    }
    return ResNetPatches(**known | options)


def every_map(encoder: ResNetPatches, x: Tensor) -> list[Tensor]:
    y = encoder.prepare(x)
    maps = []
    for stage in encoder.stages:
        y = stage(y)
        maps.append(y)
    return maps


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def on_meta(**options: Any) -> ResNetPatches:
    with torch.device("meta"):
        return ResNetPatches(**options)


def loss_head(channels: int, *, context: bool = False) -> PatchInfoNCE:
    maps = [(channels, (7, 7))] * (3 if context else 2)
    with torch.device("meta"):
        return PatchInfoNCE(block_spec(*maps, context=2 if context else None))


# --- as published ----------------------------------------------------------------------------------------------------


def test_resnet_50_has_the_published_sizes() -> None:
    stages = on_meta(resnet=50, grey=True).stages
    assert [parameters(stage) for stage in stages] == [216_064, 1_216_000, 7_088_128]
    with_heads = [parameters(stage, loss_head(width)) for stage, width in zip(stages, (256, 512, 1024), strict=True)]
    assert with_heads == [543_744, 2_526_720, 12_331_008]
    assert sum(with_heads) == 15_401_472


def test_resnet_34_has_the_published_sizes() -> None:
    stages = on_meta(resnet=34, grey=True).stages
    stem, block = 5 * 5 * 64 + 64, 2 * (9 * 64 * 64 + 64)
    assert parameters(stages[0]) == stem + 3 * block
    assert [parameters(stage) for stage in stages] == [223_232, 1_115_264, 6_819_072]


def test_colour_is_a_wider_first_kernel() -> None:
    assert parameters(on_meta()) - parameters(on_meta(grey=True)) == 2 * 5 * 5 * 64


def test_cpc_has_the_published_size_less_what_never_learns() -> None:
    encoder = on_meta(grey=True, context="pixelcnn")
    masked_rows = 4 * 3 * 1024 * 2048  # of the vertical kernels: published 3x3, of which 2x3 are not masked
    last_residual = 1024 * 2048 + 2048  # of a vertical stack that nothing reads
    published = 134_253_568
    assert parameters(encoder.stages[3], loss_head(1024, context=True)) == published - masked_rows - last_residual


@pytest.mark.parametrize(("resnet", "widths"), [(50, (256, 512, 1024)), (34, (64, 128, 256))])
def test_stages_make_the_published_maps(resnet: Any, widths: tuple[int, ...]) -> None:
    encoder = on_meta(resnet=resnet, context="pixelcnn")
    maps = every_map(encoder, torch.zeros(2, 3, 64, 64, device="meta"))
    assert encoder.prepare(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 7, 7, 3, 16, 16)
    assert [tuple(y.shape) for y in maps[:3]] == [
        (2, 7, 7, width, side, side) for width, side in zip(widths, (16, 8, 4), strict=True)
    ]
    assert maps[3].shape == (2, widths[-1], 7, 7)
    assert [tuple(encoder.readout(y, stage).shape) for stage, y in enumerate(maps)] == [
        (2, width, 7, 7) for width in (*widths, widths[-1])
    ]


def test_geometry_is_the_grid_of_patches() -> None:
    encoder = on_meta(context="pixelcnn")
    for stage in range(-1, 4):
        assert encoder.geometry(stage) == tuple(Axis(name, hop=8, centre=7.5, field=16) for name in ("height", "width"))
    with pytest.raises(IndexError):
        encoder.geometry(4)


def test_normalisation_is_that_of_stl10() -> None:
    colour, grey = ResNetPatches(widths=(4,), blocks=(1,)), ResNetPatches(widths=(4,), blocks=(1,), grey=True)
    x = torch.tensor([0.4313, 0.4156, 0.3663]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    assert colour.prepare(x).abs().max() < 1e-6
    x = x + torch.tensor([0.2683, 0.2610, 0.2687]).view(1, 3, 1, 1)
    torch.testing.assert_close(colour.prepare(x), torch.ones(2, 7, 7, 3, 16, 16))
    assert grey.prepare(torch.full((2, 3, 64, 64), 0.4120)).abs().max() < 1e-5
    torch.testing.assert_close(grey.prepare(torch.full((2, 3, 64, 64), 0.669)), torch.ones(2, 7, 7, 1, 16, 16))


# --- patches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resnet", [34, 50])
def test_a_patch_is_encoded_as_if_it_were_alone(resnet: Any) -> None:
    encoder = small(resnet=resnet, channels=3).double()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    maps = every_map(encoder, x)
    for row, column in [(0, 0), (2, 5), (6, 3)]:
        y = encoder.input(x)[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        for index, stage in enumerate(encoder.stages):
            for layer in stage:
                y = layer(y)
            torch.testing.assert_close(maps[index][:, row, column], y)
            torch.testing.assert_close(encoder.readout(maps[index], index)[:, :, row, column], y.mean((2, 3)))


def test_patches_that_do_not_divide_the_image_leave_its_edge() -> None:
    assert small(size=17).prepare(torch.zeros(2, 1, 17, 17)).shape == (2, 7, 7, 1, 4, 4)


def test_residual_blocks_are_those_of_he() -> None:
    encoder = small(resnet=50).double()
    x = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    _, block = encoder.stages[0]
    a = torch.relu(x)
    branch = block.conv3(torch.relu(block.conv2(torch.relu(block.conv1(a)))))
    torch.testing.assert_close(block(x), branch + block.shortcut(a))
    _, plain = encoder.stages[1]
    x = torch.randn(5, 24, 2, 2, dtype=torch.float64)
    branch = plain.conv3(torch.relu(plain.conv2(torch.relu(plain.conv1(torch.relu(x))))))
    torch.testing.assert_close(plain(x), branch + x)
    assert plain.shortcut is None


def test_maps_keep_their_channels_last_all_the_way() -> None:
    encoder = small(channels=3).to(memory_format=torch.channels_last)
    (x,) = prepare(encoder, (torch.rand(2, 3, 16, 16),))
    for stage in encoder.stages:
        assert x.flatten(0, 2).is_contiguous(memory_format=torch.channels_last)
        assert x.flatten(0, 2).data_ptr() == x.data_ptr()  # nothing is copied on the way in
        x = stage(x)
    assert x.flatten(0, 2).is_contiguous(memory_format=torch.channels_last)


# --- the context -----------------------------------------------------------------------------------------------------


def test_no_row_below_reaches_a_context() -> None:
    encoder = small(context="pixelcnn", widths=(5,), blocks=(1,)).double()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    before = every_map(encoder, x)[-1]
    for row in range(7):
        changed = x.clone()
        changed[:, :, 2 * row + 3] += 1  # the last line of this row of patches, which none above has
        after = every_map(encoder, changed)[-1]
        assert torch.equal(before[:, :, :row], after[:, :, :row])
        assert not torch.isclose(before[:, :, row], after[:, :, row]).all(dim=1).any()


@pytest.mark.parametrize("row", [0, 3, 6])
def test_a_context_knows_all_that_its_layers_reach_above(row: int) -> None:
    torch.manual_seed(0)
    context = PixelCNN(3).double()
    x = torch.randn(1, 3, 7, 11, dtype=torch.float64, requires_grad=True)
    context(x)[0, :, row, 5].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0) > 0
    assert seen[: row + 1].any(1).tolist() == [y >= row - 4 for y in range(row + 1)]  # one row a layer
    assert not seen[row + 1 :].any()
    assert seen[row].sum() == 9  # its own row, to both sides: one column a layer


def published_pixelcnn(ours: PixelCNN, x: Tensor) -> Tensor:
    """As Löwe et al. have it: 3x3 kernels whose last row is masked, and a vertical stack to the end."""
    v = h = x
    for index, layer in enumerate(ours.layers):
        kernel = F.pad(layer.vertical.weight, (0, 0, 0, 1))
        seen = F.conv2d(v, kernel, layer.vertical.bias, padding=1)
        row = layer.horizontal(h) + layer.across(seen)
        a, b = row.chunk(2, 1)
        out = layer.output(torch.tanh(a) * torch.sigmoid(b))
        h = out if index == 0 else h + out
        if layer.residual is not None:
            seen = seen + layer.residual(v)
        a, b = seen.chunk(2, 1)
        v = torch.tanh(a) * torch.sigmoid(b)
    return ours.output(h)


def test_the_context_equals_the_published_network() -> None:
    torch.manual_seed(0)
    ours = PixelCNN(5).double()
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64, requires_grad=True)
    found, expected = ours(x), published_pixelcnn(ours, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(found)
    tensors = [x, *ours.parameters()]
    given = torch.autograd.grad((found * weight).sum(), tensors)  # of every parameter: none is there for nothing
    for one, other in zip(given, torch.autograd.grad((expected * weight).sum(), tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# --- initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (12, 5, 5, 5), (6, 6, 1, 1)])
def test_delta_orthogonal_kernels_keep_norms(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.empty(shape, dtype=torch.float64)
    delta_orthogonal_(weight)
    x = torch.randn(2, shape[1], 9, 9, dtype=torch.float64)
    y = F.conv2d(x, weight, padding=shape[2] // 2)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))  # at every position, the edge's too
    off_centre = weight.clone()
    off_centre[:, :, shape[2] // 2, shape[3] // 2] = 0
    assert not off_centre.any()


def test_delta_orthogonal_kernels_with_fewer_outputs_keep_the_norms_of_gradients() -> None:
    torch.manual_seed(0)
    weight = torch.empty(4, 10, 3, 3, dtype=torch.float64)
    delta_orthogonal_(weight, gain=2.0)
    x = torch.randn(1, 10, 5, 5, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, padding=1)
    grad = torch.randn_like(y)
    y.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad.norm(dim=1), 2 * grad.norm(dim=1))


def test_delta_orthogonal_reaches_every_kernel_of_the_encoder() -> None:
    encoder = small(init="delta_orthogonal", context="pixelcnn")
    context = encoder.stages[-1]
    assert isinstance(context, PatchContext)
    gated = {id(module) for module in context.pixelcnn.layers.modules()}
    convs = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs:
        assert conv.bias is not None
        assert not conv.bias.any()
        if id(conv) in gated:
            fan_in = conv.weight[0].numel()
            assert conv.weight.std().item() == pytest.approx(5 / 3 / fan_in**0.5, rel=0.15)
            continue
        centre = conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2]
        torch.testing.assert_close(conv.weight.norm(), centre.norm())
        few = min(centre.shape)
        gram = centre @ centre.t() if len(centre) == few else centre.t() @ centre
        torch.testing.assert_close(gram, 2 * torch.eye(few))


# --- in blocks -------------------------------------------------------------------------------------------------------


def blocks_of(encoder: ResNetPatches, cut: Cut, loss: type[nn.Module], **options: Any) -> list[Block]:
    groups = partition(len(encoder.stages), cut)
    specs = describe_blocks(encoder, groups, IMAGES, 1)
    return [Block(encoder, spec, {"loss": loss(spec, **options)}, {"loss": 1.0}, SamplingOptions()) for spec in specs]  # type: ignore[dict-item]


@pytest.mark.parametrize("context", ["none", "pixelcnn"])
@pytest.mark.parametrize("cut", ["none", "each"])
@pytest.mark.parametrize(
    ("loss", "options"), [(PatchInfoNCE, {}), (Supervised, {"label": "class"})], ids=["patch_infonce", "supervised"]
)
def test_every_weight_learns_from_its_own_block(context: str, cut: Cut, loss: Any, options: dict[str, Any]) -> None:
    encoder = small(context=context)
    assert isinstance(encoder, Encoder)
    check_ownership(encoder)
    x = torch.rand(3, 1, 16, 16)
    batch = Batch((x,), {"class": torch.tensor([0, 3, 1])}, ("a", "b", "c"))
    inputs = prepare(encoder, batch.views)
    for block in blocks_of(encoder, cut, loss, **options):
        output = block.train()(inputs, batch)
        output.total.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.trained_parameters())
        encoder.zero_grad(set_to_none=True)
        inputs = output.outputs
        assert not any(y.requires_grad for y in inputs)


def test_encoding_is_every_readout() -> None:
    encoder = small(context="pixelcnn")
    x = torch.rand(3, 1, 16, 16)
    found = encode(encoder, x, SamplingOptions())
    for stage, (given, y) in enumerate(zip(found, every_map(encoder, x), strict=True)):
        torch.testing.assert_close(given, encoder.readout(y, stage))


def test_sound_is_read_by_its_spectrogram() -> None:
    encoder = small(spectrogram=Spectrogram(window=400, hop=160), size=8, channels=None, resnet=34, context="pixelcnn")
    maps = every_map(encoder, torch.randn(2, 1, 3200) / 10)  # 8 bands, 20 frames
    assert [tuple(encoder.readout(y, stage).shape) for stage, y in enumerate(maps)] == [
        (2, 4, 3, 9), (2, 6, 3, 9), (2, 6, 3, 9)
    ]  # fmt: skip
    frequency, time = encoder.geometry(1)
    assert (frequency.name, frequency.hop, frequency.field) == ("frequency", 2, 4)
    assert (time.name, time.hop, time.field) == ("time", 320, 880)
    assert time.centre == 79.5 + 1.5 * 160
    with pytest.raises(InfomaxError, match="resnet_patches needs at least 1280 samples to make 8 frames"):
        encoder.prepare(torch.zeros(2, 1, 1000))


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 17}, "patch is 17, but must be 1 to 16"),
        ({"patch": 0}, "patch is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"widths": (4,)}, "must have a value for each stage"),
        ({"widths": (), "blocks": ()}, "must have a value for each stage"),
        ({"blocks": (1, 0)}, "at least 1 everywhere"),
        ({"spectrogram": Spectrogram(), "grey": True}, "a spectrogram has one channel"),
        ({"mean": [0.5, 0.4]}, "mean must have one value"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InfomaxError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 1, 16, 18), "16x16 pixels, but these have 16x18"), ((2, 3, 16, 16), "1 channel, but these have 3")],
)
def test_other_images_are_refused_in_a_clear_line(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InfomaxError, match=f"resnet_patches was built for images of {message}"):
        small().prepare(torch.zeros(shape))
