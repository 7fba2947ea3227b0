"""What image encoders see of images and of sound: right values, known places, one clear line on what does not fit."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.binding import check_value
from infomax_cli.core.api import Axis, InfomaxError
from infomax_cli.errors import RecipeError
from infomax_plugins.encoders._inputs import make_input
from infomax_plugins.encoders._pixels import Pixels
from infomax_plugins.encoders._spectrogram import MEAN, STD, LogMel, Spectrogram, mel_filters

SHORT = Spectrogram(window=25, hop=10, rate=1000)


def pixels(**options: Any) -> Pixels:
    made = make_input("net", **{"size": 4} | options)
    assert isinstance(made, Pixels)
    return made


def logmel(bands: int = 4, **options: Any) -> LogMel:
    made = make_input("net", size=bands, spectrogram=SHORT, **options)
    assert isinstance(made, LogMel)
    return made


# --- images ----------------------------------------------------------------------------------------------------------


def test_pixels_are_normalised_channel_by_channel() -> None:
    x = torch.rand(2, 3, 4, 4)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    made = pixels(mean=mean, std=std)(x)
    for channel in range(3):
        torch.testing.assert_close(made[:, channel], (x[:, channel] - mean[channel]) / std[channel])


def test_by_default_pixels_lie_in_minus_one_to_one() -> None:
    assert pixels()(torch.tensor([0.0, 0.5, 1.0, 1.0]).expand(1, 3, 4, 4))[0, 0, 0].tolist() == [-1, 0, 1, 1]


def test_grey_is_the_luma_and_is_normalised_as_one_channel() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    made = pixels(grey=True, mean=0.099, std=0.1)
    assert made.out_channels == 1
    torch.testing.assert_close(made(red), torch.full((1, 1, 4, 4), 2.0))
    white = torch.ones(1, 3, 4, 4)
    torch.testing.assert_close(pixels(grey=True, mean=0.0, std=1.0)(white), torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(
        pixels(grey=True, channels=1, mean=0.0, std=1.0)(red[:, :1]), torch.ones(1, 1, 4, 4)
    )  # what is grey already


def test_normalisation_travels_with_the_weights() -> None:
    given, taken = pixels(mean=[0.1, 0.2, 0.3], std=0.5), pixels(mean=[0.0, 0.0, 0.0], std=1.0)
    taken.load_state_dict(given.state_dict())
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(taken(x), given(x))
    assert not list(given.parameters())


@pytest.mark.parametrize(
    ("shape", "said", "hint"),
    [
        ((2, 1, 400), r"net reads images, \(B, C, H, W\), not \(2, 1, 400\)", "for sound: encoder.spectrogram={}"),
        ((2, 3, 4, 4, 4), "net reads images", "an encoder made for this data"),
        ((2, 1, 4, 4), "net was built for images of 3 channels, but these have 1", "encoder.channels=1"),
        ((2, 3, 4, 6), "net was built for images of 4x4 pixels, but these have 4x6", "data.size=4"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], said: str, hint: str) -> None:
    with pytest.raises(InfomaxError, match=said) as refused:
        pixels()(torch.zeros(shape))
    assert refused.value.hint is not None
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": [0.1, 0.2]}, "net: mean must have one value, or one for each channel, 3 in all"),
        ({"grey": True, "std": [1.0, 1.0, 1.0]}, "net: std must have one value, or one for each channel, 1 in all"),
        ({"std": [1.0, 0.0, 1.0]}, "net: std is .* must be positive"),
        ({"channels": 0}, "net: channels is 0"),
        ({"size": 0}, "net: size is 0"),
        ({"channels": 2, "grey": True}, "grey mixes red, green and blue, but channels is 2"),
        ({"spectrogram": SHORT, "channels": 3}, "a spectrogram has one channel, but here is channels=3"),
        ({"spectrogram": SHORT, "grey": True}, "a spectrogram has one channel, but here is grey"),
        ({"spectrogram": SHORT, "mean": [1.0]}, "net: mean of a spectrogram is one number"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InfomaxError, match=said):
        make_input("net", **{"size": 4} | options)


def test_pixels_lie_on_themselves() -> None:
    assert pixels().axes() == (Axis("height"), Axis("width"))


# --- sound -----------------------------------------------------------------------------------------------------------


def plain_log_mel(x: Tensor, bands: int, options: Spectrogram, mean: float, std: float) -> Tensor:
    """``(T,)`` in float64 to ``(bands, T')``: every frame, frequency and band in turn."""
    window, hop, size = options.window, options.hop, 1
    while size < window:
        size *= 2
    samples = x.tolist()
    before = (window - hop) // 2
    after = window - hop - before
    padded = samples[before:0:-1] + samples + samples[-2 : -after - 2 : -1]
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    loudness = sum(value**2 for value in hann)

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    def hertz(mels: float) -> float:
        return float(700 * (10 ** (mels / 2595) - 1))

    edges = [hertz(mel(options.rate / 2) * place / (bands + 1)) for place in range(bands + 2)]
    made = torch.empty(bands, len(samples) // hop, dtype=torch.float64)
    for frame in range(made.shape[1]):
        part = [hann[n] * padded[frame * hop + n] for n in range(window)]
        power = [
            abs(sum(value * cmath.exp(-2j * math.pi * k * n / size) for n, value in enumerate(part))) ** 2 / loudness
            for k in range(size // 2 + 1)
        ]
        for band in range(bands):
            low, centre, high = edges[band : band + 3]
            weights = [
                max(0.0, min((f - low) / (centre - low), (high - f) / (high - centre)))
                for f in (k * options.rate / size for k in range(size // 2 + 1))
            ]
            energy = sum(w * p for w, p in zip(weights, power, strict=True)) / sum(weights)
            made[band, frame] = (math.log(energy + options.floor) - mean) / std
    return made


@pytest.mark.parametrize("samples", [60, 67])
def test_log_mel_equals_the_loop_over_frames_frequencies_and_bands(samples: int) -> None:
    x = torch.randn(samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = LogMel(4, SHORT).double()(x.view(1, 1, -1))
    torch.testing.assert_close(made[0, 0], plain_log_mel(x, 4, SHORT, MEAN, STD), rtol=1e-5, atol=1e-6)


def test_log_mel_is_torchaudios_but_for_scale_and_the_frames_place() -> None:
    torchaudio = pytest.importorskip("torchaudio")
    options = Spectrogram(window=512, hop=160)
    x = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0))
    theirs = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=512, hop_length=160, n_mels=20, center=False, power=2.0, norm=None, mel_scale="htk"
    )(F.pad(x, (176, 176), mode="reflect"))[0, 0]
    scale = torch.hann_window(512).square().sum() * mel_filters(20, 512, 16000).float().sum(1, keepdim=True)
    ours = LogMel(20, options, mean=0.0, std=1.0)(x)[0, 0]
    torch.testing.assert_close(ours, torch.log(theirs / scale + options.floor), rtol=1e-4, atol=1e-4)


def test_white_noise_has_its_variance_in_every_band() -> None:
    x = 0.1 * torch.randn(1, 1, 400_000, generator=torch.Generator().manual_seed(0))
    energies = LogMel(32, Spectrogram(), mean=0.0, std=1.0)(x).exp().mean((0, 1, 3))
    torch.testing.assert_close(energies, torch.full((32,), 0.01), rtol=0.07, atol=0)


def test_silence_is_the_floor() -> None:
    made = LogMel(4, Spectrogram(window=25, hop=10, rate=1000, floor=1e-3), mean=-1.0, std=2.0)(torch.zeros(1, 1, 100))
    torch.testing.assert_close(made, torch.full((1, 1, 4, 10), (math.log(1e-3) + 1) / 2))


def test_a_tone_is_loudest_in_its_band() -> None:
    filters = mel_filters(32, 512, 16000)
    time = torch.arange(4000) / 16000
    for band in (5, 15, 30):
        hertz = float(filters[band].argmax()) * 16000 / 512
        made = LogMel(32, Spectrogram())(torch.sin(2 * math.pi * hertz * time).view(1, 1, -1))
        assert int(made[0, 0, :, 12].argmax()) == band


@pytest.mark.parametrize(("window", "hop"), [(25, 10), (24, 10), (32, 8), (10, 10)])
def test_a_frame_sees_the_samples_that_its_geometry_tells(window: int, hop: int) -> None:
    front = LogMel(4, Spectrogram(window=window, hop=hop, rate=1000)).double()
    x = torch.randn(1, 1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    frame = 8
    front(x)[0, 0, :, frame].sum().backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero().flatten()
    axis = front.axes()[1]
    assert (axis.name, axis.hop, axis.field) == ("time", hop, window)
    first = axis.centre + axis.hop * frame - (axis.field - 1) / 2
    assert int(seen[0]) in (first, first + 1)  # a Hann window begins with 0
    assert int(seen[-1]) == first + window - 1
    assert abs(axis.centre - (hop - 1) / 2) <= 0.5  # on the samples that are its own


def test_there_is_a_frame_for_every_hop() -> None:
    front = LogMel(64, Spectrogram())
    assert front(torch.zeros(2, 1, 10240)).shape == (2, 1, 64, 64)
    assert front(torch.zeros(2, 1, 10399)).shape == (2, 1, 64, 64)


def test_the_shortest_sound_makes_the_least_frames_and_a_shorter_one_is_refused() -> None:
    front = logmel(6)
    assert front(torch.zeros(1, 1, 60)).shape == (1, 1, 6, 6)
    with pytest.raises(InfomaxError, match="net needs at least 60 samples to make 6 frames of a spectrogram, got 59"):
        front(torch.zeros(1, 1, 59))


def test_as_much_sound_is_needed_as_is_mirrored() -> None:
    front = LogMel(4, SHORT)
    assert front.least_samples == 10
    long = LogMel(4, Spectrogram(window=100, hop=10, rate=1000))
    assert long.least_samples == 46
    assert long(torch.randn(1, 1, 46)).shape == (1, 1, 4, 4)
    with pytest.raises(InfomaxError, match="at least 46 samples"):
        long(torch.zeros(1, 1, 45))


@pytest.mark.parametrize(
    ("shape", "hint"), [((2, 3, 32, 32), "leave out encoder.spectrogram"), ((2, 2, 900), "mix the sound to mono")]
)
def test_what_is_no_mono_sound_is_refused(shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(InfomaxError, match=r"net takes a spectrogram of sound of one channel") as refused:
        logmel()(torch.zeros(shape))
    assert refused.value.hint is not None
    assert hint in refused.value.hint


def test_quiet_bands_are_exact_under_autocast() -> None:
    x = torch.randn(1, 1, 200, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = logmel()(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, logmel()(x))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Spectrogram(hop=0), "hop is 0"),
        (Spectrogram(rate=0), "rate is 0"),
        (Spectrogram(window=100, hop=160), "at least the hop, 160"),
        (Spectrogram(floor=0.0), "floor is 0.0"),
        (Spectrogram(window=64, hop=64), "cannot tell 64 bands apart"),
    ],
)
def test_spectrograms_that_make_no_sense_are_refused(options: Spectrogram, said: str) -> None:
    with pytest.raises(InfomaxError, match=said):
        LogMel(64, options)


def test_a_recipe_writes_a_spectrogram_as_a_mapping() -> None:
    kind = Spectrogram | None
    assert check_value(kind, {"hop": 80}, "encoder.spectrogram", "recipe") == Spectrogram(hop=80)
    assert check_value(kind, {}, "encoder.spectrogram", "recipe") == Spectrogram()
    bound = Spectrogram(window=200)
    assert check_value(kind, bound, "encoder.spectrogram", "recipe") == bound  # once more
    with pytest.raises(RecipeError, match=r"encoder\.spectrogram must be .*window, hop, rate, floor"):
        check_value(kind, {"hops": 80}, "encoder.spectrogram", "recipe")
