"""The speech encoder keeps its published shape, size and geometry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infomax_cli.core.api import Encoder, Gaussian, InfomaxError
from infomax_plugins.encoders.speech_conv import ChannelNorm, RecurrentContext, SpeechConv

PADDINGS = ["gim", "cpc_audio", "valid"]


def small(**options: Any) -> SpeechConv:
    torch.manual_seed(0)
    return SpeechConv(**{"channels": 8, "context_channels": 6} | options)


def every_map(encoder: SpeechConv, x: Tensor) -> list[Tensor]:
    y = encoder.prepare(x)
    maps = []
    for stage in encoder.stages:
        y = stage(y)
        maps.append(y)
    return maps


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_stages_have_the_published_sizes() -> None:
    with torch.device("meta"):
        encoder = SpeechConv()
    assert [parameters(stage) for stage in encoder.stages] == [5632, 2097664, 1049088, 1049088, 1049088, 591360]


@pytest.mark.parametrize(
    ("samples", "frames"), [(20480, [4095, 1023, 512, 257, 128]), (10240, [2047, 511, 256, 129, 64])]
)
def test_a_crop_makes_the_published_numbers_of_frames(samples: int, frames: list[int]) -> None:
    maps = every_map(small(), torch.zeros(2, 1, samples))
    assert [tuple(y.shape) for y in maps[:-1]] == [(2, 8, count) for count in frames]
    assert maps[-1].shape == (2, 6, frames[-1])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stage", range(5))
def test_geometry_is_the_receptive_field_that_gradients_show(padding: str, stage: int) -> None:
    encoder = small(channels=1, padding=padding, cell="none").double()
    for parameter in encoder.parameters():
        nn.init.ones_(parameter)  # so that no ReLU is off and nothing cancels
    x = torch.ones(1, 1, 3000, dtype=torch.float64, requires_grad=True)
    (axis,) = encoder.geometry(stage)
    t = 1500 // axis.hop
    every_map(encoder, x)[stage][0, 0, t].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero().flatten()
    assert (seen[0] + seen[-1]) / 2 == axis.centre + axis.hop * t
    assert seen[-1] - seen[0] + 1 == axis.field


def test_published_geometry() -> None:
    encoder = small()
    axes = [encoder.geometry(stage)[0] for stage in range(-1, 6)]
    assert [axis.hop for axis in axes] == [1, 5, 20, 40, 80, 160, 160]
    assert [axis.field for axis in axes] == [1, 10, 45, 105, 225, 465, 465]
    assert [axis.centre for axis in axes] == [0, 2.5, 10, 0, -20, 20, 20]
    assert {axis.name for axis in axes} == {"time"}


@pytest.mark.parametrize("stage", [-2, 6])
def test_a_stage_that_is_not_there_has_no_geometry(stage: int) -> None:
    with pytest.raises(IndexError):
        small().geometry(stage)


def test_prepare_normalises_as_published_for_32_bit_integers() -> None:
    integers = torch.tensor([[[-(2**31), -1456218, 0, 123456789, 2**31 - 1] * 20]], dtype=torch.float64)
    prepared = small().double().prepare(integers / 2**31)
    torch.testing.assert_close(prepared, (integers + 1456218.75) / 135303504, rtol=1e-6, atol=1e-7)


def test_normalisation_travels_with_the_weights() -> None:
    given, taken = small(mean=0.5, std=2.0), small()
    taken.load_state_dict(given.state_dict())
    assert taken.prepare(torch.full((1, 1, 100), 2.5)).unique().item() == 1.0
    assert not dict(given.named_parameters()).keys() & {"mean", "std"}


@pytest.mark.parametrize("shape", [(2, 1000), (2, 2, 1000), (2, 1, 10, 1000), (1000,)])
def test_input_that_is_not_mono_sound_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InfomaxError, match=r"one channel.*not \("):
        small().prepare(torch.zeros(shape))


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_shortest_input_makes_a_frame_and_a_shorter_one_is_refused(padding: str) -> None:
    encoder = small(padding=padding)
    least = encoder.least_samples
    assert every_map(encoder, torch.zeros(1, 1, least))[-1].shape == (1, 6, 1)
    with pytest.raises(InfomaxError, match=f"at least {least} samples.*got {least - 1}"):
        encoder.prepare(torch.zeros(1, 1, least - 1))
    with pytest.raises(RuntimeError):  # and rightly so
        nn.Sequential(*encoder.stages)(torch.zeros(1, 1, least - 1))


def test_without_padding_the_shortest_input_is_the_receptive_field() -> None:
    assert small(padding="valid").least_samples == 465


def test_channel_norm_equals_its_formula() -> None:
    torch.manual_seed(0)
    norm = ChannelNorm(5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 7, dtype=torch.float64) * 0.01  # small, so that eps matters
    expected = torch.empty_like(x)
    for b in range(2):
        for t in range(7):
            frame = x[b, :, t]
            variance = ((frame - frame.mean()) ** 2).sum() / 4
            expected[b, :, t] = (frame - frame.mean()) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_context_knows_the_past_only(cell: str) -> None:
    context = small(cell=cell).stages[-1]
    assert isinstance(context, RecurrentContext)
    assert context.is_context
    x = torch.randn(1, 8, 9, requires_grad=True)
    context(x)[..., 4].sum().backward()
    assert x.grad is not None
    assert (x.grad[..., :5] != 0).any(1).all()
    assert (x.grad[..., 5:] == 0).all()


def test_only_the_context_stage_is_one() -> None:
    assert [getattr(stage, "is_context", False) for stage in small().stages] == [False] * 5 + [True]
    assert [getattr(stage, "is_context", False) for stage in small(cell="none").stages] == [False] * 5


@pytest.mark.parametrize("norm", ["none", "channel", "batch"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "none"])
def test_half_precision_runs_and_stays_close(norm: str, cell: str) -> None:
    encoder = small(channels=32, norm=norm, cell=cell)
    x = torch.randn(2, 1, 2000) * 0.06
    full = every_map(encoder, x)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        half = every_map(encoder, x)[-1]
        half.float().square().sum().backward()
    assert (half.float() - full).norm() < 0.05 * full.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_readout_shows_a_stage_as_it_is() -> None:
    y = torch.zeros(1, 8, 5)
    assert small().readout(y, 3) is y


def test_it_is_an_encoder() -> None:
    assert isinstance(small(), Encoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"channels": 1, "norm": "channel"}, "norm: channel needs at least 2"),
        ({"context_channels": 0}, "context_channels is 0"),
        ({"std": 0.0}, "std is 0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InfomaxError, match=message):
        small(**options)


# --- V-GIM -----------------------------------------------------------------------------------------------------------


def test_variational_stages_return_gaussians_and_the_others_do_not() -> None:
    encoder = small(variational=[1, 3, 4], norm="batch")
    y: Any = encoder.prepare(torch.randn(2, 1, 10240))
    kinds = []
    for stage in encoder.stages:
        y = stage(y)
        kinds.append(type(y))
        y = y.mean if isinstance(y, Gaussian) else y
    assert kinds == [Tensor, Gaussian, Tensor, Gaussian, Gaussian, Tensor]


def test_mean_heads_are_the_control_with_the_same_shape_and_no_gaussian() -> None:
    gaussian, control = small(variational=[4]), small(variational=[4], heads="mean")
    one = 8 * 8 + 8
    assert parameters(gaussian.stages[4]) - parameters(control.stages[4]) == one
    assert parameters(control.stages[4]) - parameters(small().stages[4]) == one
    assert isinstance(control.stages[4](torch.randn(1, 8, 20)), Tensor)


def drawn_units(encoder: SpeechConv, stage: int) -> Tensor:
    """Draws ``(C, frames)`` of a stage over noise."""
    y: Any = encoder.prepare(torch.randn(16, 1, 8000))
    for module in encoder.stages[: stage + 1]:
        y = module(y)
        y = y.sample() if isinstance(y, Gaussian) else y
    return y.detach().transpose(0, 1).flatten(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("stage", [1, 3, 4])
def test_units_start_near_the_standard_normal(stage: int) -> None:
    """Channels are not independent, as the initialisation takes them to be: it holds over the units."""
    units = drawn_units(small(channels=64, variational=[1, 3, 4], norm="batch"), stage)
    assert units.mean(1).abs().mean() < 0.05
    assert units.var(1).mean() == pytest.approx(1.0, abs=0.1)


def test_published_heads_start_as_any_convolution() -> None:
    encoder = small(channels=64, variational=[4], heads_start="published", norm="batch")
    heads: Any = encoder.stages[4].get_submodule("heads")
    for head in (heads.mean, heads.logvar):
        assert 0.11 < head.weight.abs().max() <= 1 / 8  # 1 over the square root of the channels
        assert 0.09 < head.bias.abs().max() <= 1 / 8
    normal: Any = small(channels=64, variational=[4], norm="batch").stages[4].get_submodule("heads")
    assert normal.mean.weight.abs().max() > 1 / 8
    assert torch.equal(normal.logvar.weight, torch.zeros(64, 64, 1))


def test_the_control_starts_at_the_same_variance() -> None:
    control = drawn_units(small(channels=64, variational=[1, 3, 4], heads="mean", norm="batch"), 4)
    assert control.var(1).mean() == pytest.approx(1.0, abs=0.2)


def test_a_variational_stage_that_is_no_convolution_is_refused() -> None:
    with pytest.raises(InfomaxError, match="variational names stage 5"):
        small(variational=[5])
