"""Baselines: aligned as the labels are, and each missing one says so for itself."""

from __future__ import annotations

import sys

import pytest
import torch

from infomax_cli.core.api import DataSpec, InfomaxError, LabelSpec, UsageError
from infomax_cli.core.baselines import Mfcc, Pixels, Spectrum, Windows, raw_source
from infomax_cli.core.features import pool_items, to_labels

PHONE = LabelSpec(41, hop=160, offset=200.0)
SOUND = DataSpec(1, (20480,), ("time",), 16000, {"phone": PHONE, "speaker": LabelSpec(3)}, {"train": 1})
IMAGES = DataSpec(3, (16, 16), ("height", "width"), None, {"class": LabelSpec(4)}, {"train": 1})


def sound(length: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [400, 559, 560, 4000])
def test_there_is_an_mfcc_for_every_label_of_the_public_format(length: int) -> None:
    (mfcc,) = Mfcc(SOUND).maps(sound(length))
    assert mfcc.shape == (1, 39, 1 + (length - 400) // 160)
    assert torch.isfinite(mfcc).all()


def test_an_mfcc_sees_the_samples_that_its_label_covers() -> None:
    source, x = Mfcc(SOUND), sound(4000)
    changed = x.clone()
    changed[..., 160 * 10 : 160 * 10 + 400] = 0.0
    (before,), (after,) = source.maps(x), source.maps(changed)
    moved = (before - after)[0, :13].abs().amax(0)  # the static ones
    assert moved.argmax() == 10
    assert torch.equal(moved > 1e-4, torch.tensor([abs(frame - 10) <= 2 for frame in range(len(moved))]))


def test_every_label_gets_its_own_mfcc() -> None:
    source = Mfcc(SOUND)
    (mfcc,) = source.maps(sound(4000))
    rows = to_labels(mfcc, source.layers[0], PHONE, mfcc.shape[-1])
    assert torch.equal(rows, mfcc[0].T)


def test_differences_of_mfccs_repeat_the_frames_at_the_edges() -> None:
    (mfcc,) = Mfcc(SOUND).maps(sound(4000))
    still, slope, bend = mfcc[0].split(13)
    for values, differences in ((still, slope), (slope, bend)):
        padded = torch.cat([values[:, :1], values[:, :1], values, values[:, -1:], values[:, -1:]], 1)
        frames = range(values.shape[1])
        expected = [(padded[:, t + 3] - padded[:, t + 1] + 2 * (padded[:, t + 4] - padded[:, t])) / 10 for t in frames]
        torch.testing.assert_close(differences, torch.stack(expected, 1), atol=1e-4, rtol=1e-4)


def test_a_pooled_item_has_mean_and_deviation_of_its_mfccs() -> None:
    source = Mfcc(SOUND)
    (mfcc,) = source.maps(sound(4000))
    row = pool_items(mfcc, source.layers[0], "mean")[0, 0]
    torch.testing.assert_close(row, torch.cat([mfcc[0].mean(1), mfcc[0].std(1, correction=0)]))
    assert torch.equal(pool_items(mfcc, source.layers[0], "last")[0, 0], mfcc[0, :, -1])


def test_another_rate_has_windows_of_the_same_time() -> None:
    (mfcc,) = Mfcc(DataSpec(1, (8000,), ("time",), 8000, {}, {})).maps(sound(8000))
    assert mfcc.shape[-1] == 1 + (8000 - 200) // 80


def test_raw_windows_are_the_samples_about_each_label() -> None:
    source, x = raw_source(SOUND, PHONE), sound(1000)
    assert isinstance(source, Windows)
    (frames,) = source.maps(x)
    rows = to_labels(frames, source.layers[0], PHONE, 4)
    for place, row in enumerate(rows):
        assert torch.equal(row, x[0, 0, 160 * place : 160 * place + 400])


@pytest.mark.parametrize("offset", [0.0, 80.0, 300.0])
def test_raw_windows_are_centred_at_labels_elsewhere(offset: float) -> None:
    label = LabelSpec(2, hop=160, offset=offset)
    source, x = raw_source(SOUND, label), sound(2000)
    (frames,) = source.maps(x)
    rows = to_labels(frames, source.layers[0], label, 5)
    padded = torch.nn.functional.pad(x[0, 0], (400, 400))
    for place, row in enumerate(rows):
        first = 400 + int(offset) + 160 * place - 200
        assert torch.equal(row, padded[first : first + 400])


def test_a_whole_sound_is_read_from_its_log_spectrum() -> None:
    source = raw_source(SOUND, LabelSpec(3))
    assert isinstance(source, Spectrum)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000).reshape(1, 1, -1)
    (spectrum,) = source.maps(tone)
    assert spectrum.shape == (1, 201, 98)
    assert (spectrum.mean(-1)[0].argmax() * 40) == 1000


def test_images_are_read_from_their_pixels() -> None:
    assert isinstance(raw_source(IMAGES, LabelSpec(4)), Pixels)


def test_mfccs_are_of_sound_alone() -> None:
    with pytest.raises(UsageError, match="not sound"):
        Mfcc(IMAGES)


@pytest.mark.parametrize("error", [OSError("libc10_cuda.so: cannot open"), RuntimeError("another CUDA"), ImportError()])
def test_a_torchaudio_that_cannot_be_loaded_costs_the_mfccs_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @staticmethod
        def find_spec(name: str, path: object, target: object = None) -> None:
            if name == "torchaudio" or name.startswith("torchaudio."):
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(InfomaxError, match="mfcc needs torchaudio, which cannot be loaded: ") as caught:
        Mfcc(SOUND)
    assert caught.value.hint is not None
    raw_source(SOUND, PHONE).maps(sound(1000))
