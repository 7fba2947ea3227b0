"""Decoders mirror the geometry of what they decode, for any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infomax_cli.core.api import Axis, UsageError
from infomax_cli.core.decoders import Decoder, Step, load_decoder, save_decoder
from infomax_plugins.encoders.speech_conv import SpeechConv


def axes_of(encoder: SpeechConv, depth: int) -> list[tuple[Axis, ...]]:
    return [encoder.geometry(stage) for stage in range(-1, depth + 1)]


def small(**options: Any) -> SpeechConv:
    torch.manual_seed(0)
    return SpeechConv(channels=4, context_channels=3, **options)


@pytest.mark.parametrize("padding", ["gim", "cpc_audio", "valid"])
def test_every_step_is_the_convolution_of_its_stage(padding: Any) -> None:
    encoder = small(padding=padding)
    steps = Decoder(axes_of(encoder, 5), 3).steps
    convs = [stage[0].conv for stage in encoder.stages[:5]]  # type: ignore[index, union-attr]
    assert steps[:5] == [(Step(c.kernel_size[0], c.stride[0], c.padding[0]),) for c in convs]  # type: ignore[union-attr]
    assert steps[5] == (Step(1, 1, 0),)  # a context lies where it reads


@pytest.mark.parametrize("length", [465, 1000, 10240, 10241, 12345])
@pytest.mark.parametrize("depth", range(6))
def test_any_length_comes_back(length: int, depth: int) -> None:
    encoder = small()
    y = encoder.prepare(torch.randn(2, 1, length))
    for stage in encoder.stages[: depth + 1]:
        y = stage(y)
    decoder = Decoder(axes_of(encoder, depth), y.shape[1], width=4)
    assert decoder.frames((length,)) == y.shape[2:]
    assert decoder(y, (length,)).shape == (2, 1, length)


def test_a_frame_moves_the_samples_that_it_sees() -> None:
    encoder = small()
    decoder = Decoder(axes_of(encoder, 4), 4, width=4)
    for parameter in decoder.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    silence = torch.zeros(1, 4, 20)
    tick = silence.clone()
    tick[..., 10] = 1.0
    changed = (decoder(tick, (3200,)) - decoder(silence, (3200,)))[0, 0].nonzero().flatten()
    (axis,) = encoder.geometry(4)
    centre = axis.centre + axis.hop * 10
    assert float(changed[0] + changed[-1]) / 2 == pytest.approx(centre, abs=0.5)
    # two convolutions of three frames come first
    assert int(changed[-1] - changed[0]) + 1 == axis.field + 4 * axis.hop


def test_maps_are_standardised_first() -> None:
    decoder = Decoder([(Axis(),), (Axis(hop=5, centre=2.0, field=10),)], 2, width=3)
    z = torch.randn(1, 2, 8)
    plain = decoder(z, (40,))
    decoder.mean.copy_(torch.tensor([3.0, -1.0]))
    decoder.deviation.copy_(torch.tensor([2.0, 0.5]))
    moved = z * decoder.deviation[:, None] + decoder.mean[:, None]
    torch.testing.assert_close(decoder(moved, (40,)), plain)


@pytest.mark.parametrize("grid", [(32, 32), (33, 20)])
def test_images_come_back_in_their_size(grid: tuple[int, int]) -> None:
    axes, y = [(Axis("height"), Axis("width"))], torch.randn(2, 3, *grid)
    for kernel, stride, padding in ((4, 2, 1), (3, 2, 0), (1, 1, 0)):
        y = torch.nn.functional.conv2d(y, torch.randn(5, y.shape[1], kernel, kernel), None, stride, padding)
        axes.append(tuple(axis.convolve(kernel, stride, padding) for axis in axes[-1]))  # type: ignore[arg-type]
    decoder = Decoder(axes, 5, width=4, channels=3)
    assert decoder.steps == [(Step(*conv),) * 2 for conv in ((4, 2, 1), (3, 2, 0), (1, 1, 0))]
    assert decoder.frames(grid) == y.shape[2:]
    assert decoder(y, grid).shape == (2, 3, *grid)


def test_a_decoder_is_kept_and_known_by_what_made_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    axes, path = [(Axis(),), (Axis(hop=5, centre=2.0, field=10),)], tmp_path / "decoder.safetensors"
    made, fresh = Decoder(axes, 2, width=3), Decoder(axes, 2, width=3)
    save_decoder(path, made, {"steps": 3}, 0.25)
    assert load_decoder(path, fresh, {"steps": 4}) is None
    assert load_decoder(tmp_path / "none", fresh, {"steps": 3}) is None
    found = load_decoder(path, fresh, {"steps": 3})
    assert found is not None
    assert found[1] == 0.25
    torch.testing.assert_close(dict(found[0].state_dict()), dict(made.state_dict()))
    path.write_bytes(path.read_bytes()[:50])
    assert load_decoder(path, fresh, {"steps": 3}) is None
    assert "cannot be read, and is trained anew" in caplog.text


def test_a_decoder_without_width_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 wide"):
        Decoder([(Axis(),), (Axis(hop=2),)], 2, width=0)
