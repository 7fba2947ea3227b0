"""Reading audio: any rate, any number of channels, only the part that is asked for."""

from __future__ import annotations

import functools
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.audio_headers import quick_header
from infomax_cli.core.files import write_atomically
from infomax_cli.errors import DataError, InfomaxError
from infomax_cli.wording import describe_error

Samples = npt.NDArray[np.float32]

_AGAIN = "Copy or download the file again, or remove it."
_NO_LENGTH = 2**62  # libsndfile reports a length beyond this where the header tells none
_SHORTER = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_WAV = ("WAV", "WAVEX")
_STREAM = 2**31 - 2**12  # a WAV written to a pipe tells some size beyond this
# libsndfile does not seek exactly in lossy formats: an MP3 frame needs bits of those before it, and the last page of an
# Ogg file is off (libsndfile issue 885). So they are decoded from their beginning, or, far from it, with a run-up.
_LOSSY = ("MP3", "OGG")
_FAR = 30  # seconds; at 16 kHz they decode in some 20 ms
_RUN_UP = 10


@dataclass(frozen=True)
class AudioInfo:
    """`frames` are in the file's own `rate` (samples a second)."""

    frames: int
    rate: int
    channels: int

    def frames_at(self, rate: int) -> int:
        """How many samples `read_audio` returns of the whole file at `rate`."""
        return -(-self.frames * rate // self.rate)


def audio_info(path: Path | str) -> AudioInfo:
    """Read the header. Raises `DataError` naming the file, also where it holds no audio at all."""
    if (found := quick_header(path)) is not None:
        return AudioInfo(*found)
    import soundfile

    path = Path(path)
    try:
        info = soundfile.info(_name(path))
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise DataError(f"cannot read {_shown(path)}: {_reason(path, error)}", _AGAIN) from error
    _check_length(path, info.frames)
    _check_whole(path, info)
    return AudioInfo(info.frames, info.samplerate, info.channels)


def read_audio(path: Path, start: int = 0, frames: int | None = None, rate: int = 16000) -> Tensor:
    """Samples ``(1, T)`` in [-1, 1], mixed to mono and resampled to `rate`; `start` and `frames` count at `rate`.

    Seeks, and decodes only what it returns (of MP3 and OGG, also what stands before). A part equals that part of the
    whole. Near the end of the file it returns fewer than `frames`. Raises `DataError` naming the file when it cannot be
    decoded, or ends before its header says that it does.
    """
    import soundfile

    try:
        with soundfile.SoundFile(_name(path)) as file:
            _check_length(path, file.frames)
            _check_whole(path, file)
            if file.samplerate == rate:
                samples = _read(file, path, start, file.frames if frames is None else start + frames)
            else:
                samples = _read_resampled(file, path, start, frames, rate)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise DataError(f"cannot decode {_shown(path)}: {_reason(path, error)}", _AGAIN) from error
    return torch.from_numpy(samples).unsqueeze(0)


def _read(file: Any, path: Path, start: int, stop: int) -> Samples:
    """Samples `start` to `stop` at the file's own rate, mono; what lies beyond its end is left out."""
    start, stop = min(start, file.frames), min(stop, file.frames)
    lead = 0
    if file.format in _LOSSY:
        lead = start if start <= _FAR * file.samplerate else _RUN_UP * file.samplerate
    file.seek(start - lead)
    samples = file.read(stop - start + lead, dtype="float32")[lead:]
    if len(samples) < stop - start:  # a truncated file may simply end
        raise DataError(
            f"cannot decode {_shown(path)}: it is truncated: it ends at sample {start + len(samples)}, "
            f"and its header promises {file.frames}",
            _AGAIN,
        )
    if not np.isfinite(samples).all():  # a WAV of floats may hold anything
        raise DataError(f"cannot use {_shown(path)}: it holds samples that are no numbers (nan or inf)", _AGAIN)
    mono: Samples = samples if samples.ndim == 1 else samples.mean(axis=1)
    return mono


def _read_resampled(file: Any, path: Path, start: int, frames: int | None, rate: int) -> Samples:
    """As `_read`, at `rate`: reads as far as the filter reaches beyond the part, resamples, and trims."""
    from scipy.signal import resample_poly

    shrink = math.gcd(rate, file.samplerate)
    up, down = rate // shrink, file.samplerate // shrink
    total = -(-file.frames * up // down)
    start = min(start, total)
    stop = total if frames is None else min(start + frames, total)
    if start == stop:
        return np.empty(0, dtype=np.float32)
    taps = low_pass(up, down)
    reach = len(taps) // 2  # in samples of the rate that both rates divide
    # Output sample m stands at m * down, input sample k at k * up. To begin at a multiple of `down` keeps them so.
    first = max(0, (start * down - reach) // up) // down * down
    last = ((stop - 1) * down + reach) // up + 1
    skipped = first * up // down
    part = resample_poly(_read(file, path, first, last), up, down, window=taps)
    return np.ascontiguousarray(part[start - skipped : stop - skipped], dtype=np.float32)


@functools.lru_cache(maxsize=16)
def low_pass(up: int, down: int) -> Samples:
    """The filter that `scipy.signal.resample_poly` designs by default, which it would design anew for every crop."""
    from scipy.signal import firwin

    widest = max(up, down)
    taps: Samples = firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0)).astype(np.float32)
    return taps


def _check_length(path: Path, frames: int) -> None:
    if frames == 0:
        raise DataError(f"cannot use {_shown(path)}: it holds no audio", _AGAIN)
    if frames > _NO_LENGTH:
        raise DataError(
            f"cannot use {_shown(path)}: its header does not tell its length",
            "It was written as a stream: encode it again, into a file (flac --decode, then flac).",
        )


def _check_whole(path: Path, file: Any) -> None:
    """Of a WAV that is cut short libsndfile tells only in its log; its length it reports as what is there."""
    found = _SHORTER.search(file.extra_info) if file.format in _WAV else None
    if found is None:
        return
    promised, there = int(found[1]), int(found[2])
    if there + 1 < promised < _STREAM:  # an odd length is padded
        raise DataError(
            f"cannot use {_shown(path)}: it is truncated: its header promises {promised} bytes of audio, "
            f"and {there} are there",
            _AGAIN,
        )


def _reason(path: Path, error: Exception) -> str:
    """Why, in better words than libsndfile's "System error" where the file system knows."""
    import soundfile

    try:
        size = path.stat().st_size
        if path.is_dir():
            return "it is a folder"
        with path.open("rb"):
            pass
    except FileNotFoundError:
        return "there is no such file"
    except OSError as failure:
        return failure.strerror or str(failure)
    if size == 0:
        return "it is empty"
    if isinstance(error, soundfile.LibsndfileError):
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        if "seek" in reason or "lost sync" in reason:
            return f"it is truncated or damaged ({reason})"
        return str(reason)
    return str(error)


def _name(path: Path) -> str | bytes:
    """What libsndfile opens: the file system's own bytes, since a name need not be UTF-8."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _shown(path: Path) -> str:
    """The path as text that can be printed, whatever bytes the file system holds."""
    return str(path).encode(errors="replace").decode()


def load_torchaudio(purpose: str) -> Any:
    """torchaudio, imported here alone. Raises `InfomaxError` naming the `purpose` where it cannot be."""
    try:
        import torchaudio
        import torchaudio.functional
        import torchaudio.transforms
    except Exception as error:  # built for another torch, it raises OSError or RuntimeError
        raise InfomaxError(
            f"{purpose} needs torchaudio, which cannot be loaded: {describe_error(error)}",
            "install the torchaudio that belongs to this torch, or do without",
        ) from error
    return torchaudio


def write_wav(path: Path, samples: Tensor, rate: int) -> None:
    """Samples ``(T,)`` in [-1, 1] as 16-bit WAV; what lies beyond is clipped."""
    import soundfile

    with write_atomically(path) as temporary:
        soundfile.write(temporary, samples.clamp(-1, 1).numpy(), rate, format="WAV", subtype="PCM_16")
