from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from infomax_cli.core.audio import audio_info, read_audio
from infomax_cli.core.audio_headers import quick_header
from infomax_cli.errors import DataError


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((samples, channels)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16000, **options: str) -> Path:
    channels = samples.shape[1] if samples.ndim == 2 else 1
    with soundfile.SoundFile(path, "w", rate, channels, **options) as file:
        for start in range(0, len(samples), 50000):  # libsndfile's Vorbis encoder overruns its stack on much at once
            file.write(samples[start : start + 50000])
    return path


def truncate(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_audio_is_one_channel_of_float32_in_minus_one_to_one(tmp_path: Path) -> None:
    samples = np.array([0.5, -0.25, 0.999, -1.0], dtype=np.float32)
    read = read_audio(write(tmp_path / "a.flac", samples))
    assert read.dtype == torch.float32
    assert read.shape == (1, 4)
    np.testing.assert_allclose(read[0], samples, atol=2**-15)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("start", [0, 1, 16000, 41234, 47000])
def test_part_equals_that_part_of_the_whole(tmp_path: Path, suffix: str, start: int) -> None:
    path = write(tmp_path / f"a.{suffix}", noise(48000))
    whole = read_audio(path)
    part = read_audio(path, start, 3000)
    assert whole.shape == (1, 48000)
    assert part.shape == (1, min(3000, 48000 - start))
    torch.testing.assert_close(part, whole[:, start : start + 3000], atol=1e-6, rtol=0)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_part_of_lossy_audio_far_from_its_beginning_equals_that_part_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("infomax_cli.core.audio._FAR", 1)  # so that seconds are far
    monkeypatch.setattr("infomax_cli.core.audio._RUN_UP", 2)
    path = write(tmp_path / f"a.{suffix}", noise(400000), 44100)
    whole = read_audio(path, rate=44100)
    for start in range(90000, 400000, 7001):
        part = read_audio(path, start, 2000, rate=44100)
        torch.testing.assert_close(part, whole[:, start : start + 2000], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [8000, 11127, 22050, 44100, 48000])
@pytest.mark.parametrize("start", [0, 1, 159, 5000, 15990])
def test_resampled_part_equals_that_part_of_the_resampled_whole(tmp_path: Path, rate: int, start: int) -> None:
    samples = noise(rate + 37)
    path = write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    whole = resample_poly(samples[:, 0], 16000, rate)
    assert audio_info(path).frames_at(16000) == len(whole)
    np.testing.assert_allclose(read_audio(path)[0], whole, atol=1e-6)
    part = read_audio(path, start, 1000)
    np.testing.assert_allclose(part[0], whole[start : start + 1000], atol=1e-6)


def test_resampling_keeps_a_tone_at_its_pitch(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    read = read_audio(write(tmp_path / "a.wav", 0.5 * tone, 8000))[0]
    wanted = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    np.testing.assert_allclose(read[500:-500], wanted[500:-500], atol=2e-3)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_channels_are_mixed_by_their_mean(tmp_path: Path, rate: int) -> None:
    stereo = noise(4000, channels=2)
    both = read_audio(write(tmp_path / "a.wav", stereo, rate, subtype="FLOAT"))
    mean = read_audio(write(tmp_path / "b.wav", stereo.mean(axis=1), rate, subtype="FLOAT"))
    assert audio_info(tmp_path / "a.wav").channels == 2
    torch.testing.assert_close(both, mean, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_beyond_the_end_there_is_nothing(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.flac", noise(rate), rate)
    assert read_audio(path, 15900, 1000).shape == (1, 100)
    assert read_audio(path, 16000, 1000).shape == (1, 0)
    assert read_audio(path, 99999, 1000).shape == (1, 0)
    assert read_audio(path, 100, 0).shape == (1, 0)


def test_only_the_part_asked_for_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(160000))
    head = read_audio(path, 0, 16000)
    truncate(path, 0.5)
    torch.testing.assert_close(read_audio(path, 0, 16000), head, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["Frau Müller, 第三.flac", "two  spaces .flac", "emoji 🎤.flac"])
def test_any_name_can_be_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, noise(1600))
    assert audio_info(path).frames == read_audio(path).shape[1] == 1600


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_flac_is_an_error_that_names_the_file_and_says_so(tmp_path: Path, share: float) -> None:
    path = truncate(write(tmp_path / "cut.flac", noise(160000)), share)
    assert audio_info(path).frames == 160000  # the header knows nothing of it
    for start, frames in [(0, None), (155000, 4000)]:
        with pytest.raises(DataError, match=r"cut\.flac.*truncated") as caught:
            read_audio(path, start, frames)
        assert caught.value.hint is not None


@pytest.mark.parametrize("read", [audio_info, read_audio])
def test_truncated_wav_is_an_error_that_names_the_file_and_says_so(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    whole = write(tmp_path / "cut.wav", noise(16000), subtype="PCM_16")
    read(whole)
    truncate(whole, 0.5)
    with pytest.raises(DataError, match=r"cut\.wav: it is truncated: its header promises 32000 bytes of audio, and 15"):
        read(whole)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "piped.wav", noise(16000), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    for place in (4, 40):  # the sizes of the file and of its audio, of which the writer knew neither
        content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert read_audio(path).shape == (1, 16000)


def test_file_that_ends_early_without_an_error_of_the_decoder_is_an_error(tmp_path: Path) -> None:
    path = truncate(write(tmp_path / "cut.mp3", noise(160000), 44100), 0.5)
    with pytest.raises(DataError, match=r"cut\.mp3: it is truncated: it ends at sample \d+.*promises 160000"):
        read_audio(path, rate=44100)


def test_flac_of_untold_length_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "stream.flac", noise(1600))
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples; 0 is unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    for read in (audio_info, read_audio):
        with pytest.raises(DataError, match=r"stream\.flac.*does not tell its length"):
            read(path)


@pytest.mark.parametrize("read", [audio_info, read_audio])
def test_what_is_no_audio_is_an_error_that_names_it_and_says_why(tmp_path: Path, read: object) -> None:
    assert callable(read)
    (tmp_path / "folder.flac").mkdir()
    (tmp_path / "empty.flac").touch()
    (tmp_path / "text.flac").write_text("no audio at all")
    (tmp_path / "data.raw").write_bytes(bytes(100))
    write(tmp_path / "silent.wav", noise(0))
    reasons = {
        "missing.flac": "no such file",
        "folder.flac": "folder",
        "empty.flac": "it is empty",
        "text.flac": "[Ff]ormat",
        "data.raw": "samplerate",
        "silent.wav": "no audio",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=f"{name}: .*{reason}"):
            read(tmp_path / name)


def test_a_file_of_floats_that_are_no_numbers_is_named(tmp_path: Path) -> None:
    samples = np.zeros(4000, dtype=np.float32)
    samples[3000] = np.nan
    path = tmp_path / "spoilt.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    assert read_audio(path, 0, 2000).shape == (1, 2000)
    for rate in (16000, 8000):
        with pytest.raises(DataError, match="it holds samples that are no numbers"):
            read_audio(path, rate=rate)


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_s_first_bytes_say_what_libsndfile_says(tmp_path: Path, subtype: str, channels: int) -> None:
    path = write(tmp_path / "a.wav", noise(1001, channels), 44100, subtype=subtype)
    assert quick_header(path) == (1001, 44100, channels) == _told_by_libsndfile(path)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (96000, 8)])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_s_first_bytes_say_what_libsndfile_says(tmp_path: Path, rate: int, channels: int, subtype: str) -> None:
    path = write(tmp_path / "a.flac", noise(1001, channels), rate, subtype=subtype)
    assert quick_header(path) == (1001, rate, channels) == _told_by_libsndfile(path)


def _told_by_libsndfile(path: Path) -> tuple[int, int, int]:
    told = soundfile.info(str(path))
    return told.frames, told.samplerate, told.channels


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_first_bytes_of_a_file_that_is_cut_short_or_spoilt_are_not_believed(tmp_path: Path, name: str) -> None:
    """Wherever its header ends, and whichever of its bytes is another: what is believed libsndfile says, too, or else
    the file cannot be decoded."""
    path = write(tmp_path / name, noise(100))
    content = path.read_bytes()
    for end in range(0, len(content) if name == "a.wav" else 90, 3):
        path.write_bytes(content[:end])
        assert quick_header(path) is None
    for place in range(48):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        if (found := quick_header(path)) is None:
            continue
        try:
            told = _told_by_libsndfile(path)
        except soundfile.LibsndfileError:
            with pytest.raises(DataError, match=name):
                read_audio(path)
        else:
            assert found == told
