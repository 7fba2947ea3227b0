"""Augmentations of sound do what they say, measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from infomax_cli.core import speech_augment as augment
from infomax_cli.core.api import DataError, DataSpec
from infomax_cli.core.audio import write_wav

RATE = 16000
DATA = DataSpec(1, (RATE,), ("time",), RATE, {}, {"train": 1})


def sine(hertz: float, seconds: float = 1.0) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)[None]


def hiss(samples: int = RATE, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(seed))


def decibels(x: Tensor) -> float:
    return 10 * float(x.double().square().mean().log10())


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- level and noise -------------------------------------------------------------------------------------------------


def test_gain_is_what_was_asked() -> None:
    x = hiss()
    assert decibels(augment.Gain(DATA, decibels=-4)(x, seeded(0))) - decibels(x) == pytest.approx(-4, abs=1e-3)
    gains = [decibels(augment.Gain(DATA, decibels=(-3, 9))(x, seeded(seed))) - decibels(x) for seed in range(100)]
    assert -3 <= min(gains) < -2.5
    assert 8.5 < max(gains) <= 9


@pytest.mark.parametrize("snr", [-5, 0, 20])
def test_white_noise_lies_as_far_below_the_sound_as_asked(snr: int) -> None:
    x = sine(300)
    noise = augment.Noise(DATA, snr=snr)(x, seeded(0)) - x
    assert decibels(x) - decibels(noise) == pytest.approx(snr, abs=0.1)
    power = torch.fft.rfft(noise).abs().square()[0, 1:].view(-1, 1000).mean(1)
    assert power.max() / power.min() < 1.3  # as much in each 1000 Hz


def test_recorded_noise_is_a_part_of_a_recording_at_the_ratio_asked(tmp_path: Path) -> None:
    long = hiss(3 * RATE, seed=1)
    write_wav(tmp_path / "deep" / "long.wav", long[0], RATE)
    x = sine(300)
    made = augment.Noise(DATA, snr=(3, 3), path=tmp_path)
    starts = set()
    for seed in range(8):
        noise = made(x, seeded(seed)) - x
        assert decibels(x) - decibels(noise) == pytest.approx(3, abs=1e-2)
        spectrum = torch.fft.rfft(long, 4 * RATE) * torch.fft.rfft(noise, 4 * RATE).conj()
        fit = torch.fft.irfft(spectrum)[0]
        start = int(fit.argmax())
        part = long[:, start : start + RATE]
        assert torch.corrcoef(torch.cat([part, noise]))[0, 1] > 0.999
        starts.add(start)
    assert len(starts) == 8
    assert torch.equal(made(x, seeded(1)), made(x, seeded(1)))


def test_a_recording_shorter_than_the_sound_is_repeated_and_one_of_another_rate_resampled(tmp_path: Path) -> None:
    write_wav(tmp_path / "short.wav", sine(1000, 0.25)[0], RATE)  # 250 whole periods: repeated without a seam
    x = hiss()
    noise = augment.Noise(DATA, snr=0, path=tmp_path)(x, seeded(0)) - x
    assert int(torch.fft.rfft(noise)[0].abs().argmax()) == 1000
    slow = DataSpec(1, (8000,), ("time",), 8000, {}, {"train": 1})
    noise = augment.Noise(slow, snr=0, path=tmp_path)(hiss(8000), seeded(0)) - hiss(8000)
    assert int(torch.fft.rfft(noise)[0].abs().argmax()) == 1000


def test_noise_that_cannot_be_read_is_named_once_and_other_takes_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "hum.wav", torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE).numpy(), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "._hum.wav").write_bytes(b"what macOS leaves")
    noise = augment.Noise(DATA, snr=0, path=tmp_path)
    for seed in range(8):
        added = noise(hiss(8000), seeded(seed)) - hiss(8000)
        assert int(torch.fft.rfft(added)[0].abs().argmax()) == 500
    assert len(caplog.records) == 1
    assert "broken.wav" in caplog.text
    (tmp_path / "hum.wav").unlink()
    with pytest.raises(DataError, match=r"none of 100 recordings tried can be read.*broken\.wav"):
        augment.Noise(DATA, snr=0, path=tmp_path)(hiss(8000), seeded(0))


def test_noise_that_is_silent_adds_nothing(tmp_path: Path) -> None:
    write_wav(tmp_path / "silence.wav", torch.zeros(2 * RATE), RATE)
    x = sine(300)
    assert torch.equal(augment.Noise(DATA, path=tmp_path)(x, seeded(0)), x)


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    for kind in (augment.Noise, augment.Reverb):
        with pytest.raises(DataError, match="there are no recordings below") as caught:
            kind(DATA, path=tmp_path)
        assert "flac" in str(caught.value.hint)


# --- rooms -----------------------------------------------------------------------------------------------------------


def test_reverb_falls_by_sixty_decibels_in_its_time_and_holds_its_ratio_to_the_direct_sound() -> None:
    for seed, rt60, drr in ((0, 0.3, 5.0), (1, 0.6, 0.0)):
        click = torch.zeros(1, RATE)
        click[0, 100] = 0.5
        made = augment.Reverb(DATA, rt60=rt60, drr=drr)(click, seeded(seed))[0]
        assert int(made.abs().argmax()) == 100  # the direct sound stays in place
        assert made[:100].abs().max() < 1e-6
        tail = made[101:]
        assert decibels(made[100:101]) - 10 * float(tail.square().sum().log10()) == pytest.approx(drr, abs=0.05)
        quarter = round(rt60 * RATE / 4)
        levels = [decibels(tail[i * quarter : (i + 1) * quarter]) for i in range(4)]
        assert np.diff(levels) == pytest.approx([-15] * 3, abs=1.5)


def test_reverb_keeps_level_and_length() -> None:
    for x in (sine(200), hiss(), hiss(1000)):
        made = augment.Reverb(DATA)(x, seeded(3))
        assert made.shape == x.shape
        assert decibels(made) == pytest.approx(decibels(x), abs=1e-3)
        assert not torch.allclose(made, x, atol=0.02)


def test_a_recorded_response_is_convolved_with_from_its_peak_on(tmp_path: Path) -> None:
    response = torch.zeros(400)
    response[50], response[90] = 0.8, -0.4
    write_wav(tmp_path / "room.wav", response, RATE)
    x = hiss(2000)
    made = augment.Reverb(DATA, path=tmp_path)(x, seeded(0))
    wanted = x.clone()
    wanted[:, 40:] -= 0.5 * x[:, :-40]
    wanted *= (x.square().mean() / wanted.square().mean()).sqrt()
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("length", "taps"), [(50, 1), (50, 7), (33, 50), (1, 4)])
def test_convolution_equals_the_sum(length: int, taps: int) -> None:
    x, response = hiss(length).double(), hiss(taps, 1)[0].double()
    wanted = torch.from_numpy(np.convolve(x[0].numpy(), response.numpy())[:length])[None]
    torch.testing.assert_close(augment.convolve(x, response), wanted)


# --- pitch and time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semitones", [-7, -1, 0, 0.5, 12])
def test_pitch_moves_the_fundamental_by_the_semitones_asked(semitones: float) -> None:
    pytest.importorskip("torchaudio")
    x = sine(440, 2.0)
    made = augment.Pitch(DATA, semitones=semitones)(x, seeded(0))
    assert made.shape == x.shape
    spectrum = torch.fft.rfft(made[0] * torch.hann_window(made.shape[-1]), 16 * RATE).abs()
    measured = float(spectrum.argmax()) / 16
    assert 12 * np.log2(measured / 440) == pytest.approx(semitones, abs=0.03)
    assert decibels(made) == pytest.approx(decibels(x), abs=1e-3)


def test_pitch_leaves_what_happens_when_it_happens() -> None:
    pytest.importorskip("torchaudio")
    x = torch.cat([torch.zeros(1, 8000), sine(500, 0.5)], 1)
    made = augment.Pitch(DATA, semitones=4)(x, seeded(0))
    level = made[0].view(-1, 400).square().mean(1)
    onset = int((level > level.max() / 4).nonzero()[0]) * 400
    assert abs(onset - 8000) <= 800


def test_resampling_keeps_a_sine_a_sine() -> None:
    x = sine(250)
    for length in (12000, 16000, 20001):
        places = torch.arange(length) / length
        wanted = 0.3 * torch.sin(2 * torch.pi * 250 * places)[None]
        torch.testing.assert_close(augment._resample(x, length), wanted, rtol=0, atol=1e-4)


def test_shift_moves_within_its_bound_and_mirrors_what_comes_in() -> None:
    x = torch.arange(1000.0)[None]
    met = set()
    for seed in range(300):
        made = augment.Shift(DATA, seconds=10 / RATE)(x, seeded(seed))[0].long()
        shift = int(x[0, 500]) - int(made[500])
        assert made.tolist() == [999 - abs(999 - abs(place - shift)) for place in range(1000)]
        met.add(shift)
    assert met == set(range(-10, 11))


def test_of_a_crop_one_part_is_heard_anywhere_in_its_place_and_the_rest_is_silent() -> None:
    x = 1 + torch.arange(200.0)[None].repeat(2, 1)
    starts, sizes = set(), set()
    for seed in range(400):
        made = augment.Crop(DATA, scale=(0.25, 0.75))(x, seeded(seed))
        heard = torch.nonzero(made[0]).flatten()
        start, size = int(heard[0]), len(heard)
        assert torch.equal(heard, torch.arange(start, start + size))
        assert torch.equal(made[:, heard], x[:, heard])
        assert torch.equal(made[0], made[1])
        starts.add(start)
        sizes.add(size)
    assert min(sizes) == 50
    assert max(sizes) == 150
    assert min(starts) == 0
    assert max(starts) > 140
    assert torch.equal(augment.Crop(DATA, scale=1)(x, seeded(0)), x)
    assert augment.Crop(DATA, scale=0)(x, seeded(0)).count_nonzero() == 2


# --- SpecAugment -----------------------------------------------------------------------------------------------------


def power(x: Tensor) -> Tensor:
    """``(C, T)`` to ``(F, N)``."""
    return augment._stft(x, 512)[0].abs().square()


def test_spec_augment_silences_bands_no_wider_than_asked_and_nothing_else() -> None:
    x = hiss()
    made = augment.SpecAugment(DATA, bands=1, hertz=1000, gaps=0)
    widths = []
    for seed in range(40):
        ratio = power(made(x, seeded(seed)))[:, 5:-5].mean(1) / power(x)[:, 5:-5].mean(1)
        silent = (ratio < 0.5).nonzero().flatten()
        widths.append(len(silent))
        if len(silent):
            low, high = int(silent[0]), int(silent[-1])
            assert high - low + 1 == len(silent) <= 1000 / (RATE / 512)
            assert ratio[low + 2 : high - 1].numel() == 0 or ratio[low + 2 : high - 1].max() < 0.01
            ratio[max(0, low - 3) : high + 4] = 1
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=0.05)
    assert min(widths) < 5 < 28 < max(widths)


def test_spec_augment_silences_stretches_of_time_no_longer_than_asked_and_nothing_else() -> None:
    x = hiss()
    made = augment.SpecAugment(DATA, bands=0, gaps=1, seconds=0.1)
    longest = 0
    for seed in range(40):
        y = made(x, seeded(seed))
        changed = ((y - x).abs()[0] > 1e-5).nonzero().flatten()
        if len(changed):
            first, last = int(changed[0]), int(changed[-1])
            assert last - first <= 1600 + 512  # the frames that are silent reach half a window beyond
            silent = y[0, first + 512 : last - 512]
            assert silent.numel() == 0 or silent.abs().max() < 1e-6
            longest = max(longest, last - first)
    assert longest > 1600


def test_spec_augment_leaves_most_of_a_short_sound() -> None:
    made = augment.SpecAugment(DATA, bands=0, gaps=1, seconds=10.0)
    for seed in range(20):
        assert decibels(made(hiss(3200), seeded(seed))) - decibels(hiss(3200)) > -2


def test_without_masks_spec_augment_gives_back_the_sound() -> None:
    x = hiss(3333)
    torch.testing.assert_close(augment.SpecAugment(DATA, bands=0, gaps=0)(x, seeded(0)), x, rtol=0, atol=1e-6)


def test_sound_of_several_channels_is_treated_alike() -> None:
    x = torch.cat([sine(440, 0.3), hiss(4800)])
    for kind in (augment.Gain, augment.Noise, augment.Reverb, augment.Pitch, augment.Shift, augment.SpecAugment):
        assert kind(DATA)(x, seeded(0)).shape == x.shape
