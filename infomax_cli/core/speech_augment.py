"""Augmentations of sound ``(C, T)``, samples in [-1, 1]; each keeps length and alignment, unless it says otherwise."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infomax_cli.core.api import DataError, DataSpec, Found, audio_info, find_files, paths_of, read_audio
from infomax_cli.core.audio import load_torchaudio
from infomax_cli.core.augment_base import Augmentation, Range, check_at_least, check_range, reflected

_SUFFIXES = (".flac", ".mp3", ".ogg", ".opus", ".wav")
_WINDOW = 0.032  # seconds of a spectrum; its hop is a quarter of that
_ATTEMPTS = 100  # recordings tried in place of one that cannot be read
_log = logging.getLogger("infomax")


class Crop(Augmentation):
    """Only a part is heard, anywhere in the sound, with a share of its length drawn from `scale`: the rest is silent.

    What is heard stays in place, as its labels do. How long a training item is, is the dataset's option `crop`.
    """

    medium = "sound"

    def __init__(self, data: DataSpec, *, scale: Range = (0.5, 1.0), p: float = 1.0) -> None:
        super().__init__(data, p=p)
        self.scale = check_range("scale", scale, least=0, most=1)

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        length = x.shape[-1]
        size = max(1, round(length * random.uniform(*self.scale)))
        first = int(random.integers(length - size, endpoint=True))
        heard = torch.zeros_like(x)
        heard[:, first : first + size] = x[:, first : first + size]
        return heard


class Gain(Augmentation):
    """Louder or softer by `decibels`."""

    medium = "sound"

    def __init__(self, data: DataSpec, *, decibels: Range = (-6.0, 6.0), p: float = 1.0) -> None:
        super().__init__(data, p=p)
        self.decibels = check_range("decibels", decibels)

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        return x * 10 ** (random.uniform(*self.decibels) / 20)


class Noise(Augmentation):
    """Noise `snr` decibels below the sound: white, or parts of the recordings in the folder `path`."""

    medium = "sound"

    def __init__(self, data: DataSpec, *, snr: Range = (5.0, 30.0), path: Path | None = None, p: float = 1.0) -> None:
        super().__init__(data, p=p)
        self.snr = check_range("snr", snr)
        self.recordings = None if path is None else Recordings(path, _rate_of(data))

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        level = _level(x) * 10 ** (-random.uniform(*self.snr) / 20)
        if self.recordings is None:
            return x + level * torch.from_numpy(random.standard_normal(tuple(x.shape), dtype=np.float32))
        noise = self.recordings.part(x.shape[-1], random)
        return x + noise * (level / _level(noise).clamp(min=1e-8))


class Reverb(Augmentation):
    """Heard in a room: with the sound itself come reflections, noise that falls by 60 dB in `rt60` seconds and is in
    all `drr` decibels below it, or those of an impulse response from the folder `path`.

    The first, direct sound stays in place, and the level is kept.
    """

    medium = "sound"

    def __init__(
        self,
        data: DataSpec,
        *,
        rt60: Range = (0.2, 0.8),
        drr: Range = (0.0, 15.0),
        path: Path | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(data, p=p)
        self.rate = _rate_of(data)
        self.rt60 = check_range("rt60", rt60, least=1e-3)
        self.drr = check_range("drr", drr)
        self.recordings = None if path is None else Recordings(path, self.rate)

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        response = self._drawn(random) if self.recordings is None else _from_its_peak(self.recordings.whole(random)[0])
        return _as_loud(convolve(x, response[: x.shape[-1]]), x)

    def _drawn(self, random: np.random.Generator) -> Tensor:
        """The impulse response of a room ``(L,)``, direct sound first."""
        rt60, drr = random.uniform(*self.rt60), random.uniform(*self.drr)
        length = max(2, round(rt60 * self.rate))
        decay = np.exp(-math.log(1e3) * np.arange(length) / length)  # an amplitude of 1e-3 is -60 dB
        tail = random.standard_normal(length) * decay
        tail[0] = 0.0
        tail *= 10 ** (-drr / 20) / np.linalg.norm(tail)
        tail[0] = 1.0
        return torch.from_numpy(tail.astype(np.float32))


class Pitch(Augmentation):
    """Higher or lower by `semitones`, as fast and as loud as before: stretched by a phase vocoder, then resampled."""

    medium = "sound"

    def __init__(self, data: DataSpec, *, semitones: Range = (-3.0, 3.0), p: float = 1.0) -> None:
        super().__init__(data, p=p)
        self.semitones = check_range("semitones", semitones, least=-24, most=24)
        self.size = _window_of(_rate_of(data))
        load_torchaudio("views: pitch")  # a broken one is told of before there are workers

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        vocoder = load_torchaudio("views: pitch").functional.phase_vocoder
        factor = 2 ** (random.uniform(*self.semitones) / 12)
        length, hop = x.shape[-1], self.size // 4
        spectrum = _stft(x, self.size)  # (C, F, N)
        advance = torch.linspace(0, math.pi * hop, spectrum.shape[-2])[:, None]
        longer = max(1, round(length * factor))
        stretched = _istft(vocoder(spectrum, 1 / factor, advance), self.size, longer)  # (C, longer)
        return _as_loud(_resample(stretched, length), x)


class Shift(Augmentation):
    """Moved in time by up to `seconds`, to either side; what comes in is the mirror image. Labels of frames stay where
    they were."""

    medium = "sound"

    def __init__(self, data: DataSpec, *, seconds: float = 0.01, p: float = 1.0) -> None:
        super().__init__(data, p=p)
        check_at_least(0, seconds=seconds)
        self.most = round(seconds * _rate_of(data))

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        most = min(self.most, x.shape[-1] - 1)
        places = reflected(x.shape[-1], int(random.integers(-most, most, endpoint=True)))
        return x[:, torch.from_numpy(places)]


class SpecAugment(Augmentation):
    """Bands of frequency and stretches of time silenced. (Park et al. 2019)

    Views are samples, whatever an encoder makes of them: so the masks, `bands` of up to `hertz` and `gaps` of up to
    `seconds` (but no gap over a fifth of all), are laid on a short-time Fourier transform, which is then turned back
    into samples.
    """

    medium = "sound"

    def __init__(
        self,
        data: DataSpec,
        *,
        bands: int = 2,
        hertz: float = 1000.0,
        gaps: int = 2,
        seconds: float = 0.1,
        p: float = 1.0,
    ) -> None:
        super().__init__(data, p=p)
        check_at_least(0, bands=bands, hertz=hertz, gaps=gaps, seconds=seconds)
        rate = _rate_of(data)
        self.size = _window_of(rate)
        self.bands, self.gaps = bands, gaps
        self.bins, self.frames = hertz * self.size / rate, seconds * rate / (self.size // 4)

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        spectrum = _stft(x, self.size)  # (C, F, N)
        for _ in range(self.bands):
            spectrum[:, _stretch(spectrum.shape[1], self.bins, random)] = 0
        for _ in range(self.gaps):
            frames = spectrum.shape[2]
            spectrum[:, :, _stretch(frames, min(self.frames, frames / 5), random)] = 0
        return _istft(spectrum, self.size, x.shape[-1])


def _stretch(length: int, widest: float, random: np.random.Generator) -> slice:
    """Up to `widest` places of `length`, anywhere."""
    width = min(length, round(random.uniform(0, widest)))
    first = int(random.integers(length - width, endpoint=True))
    return slice(first, first + width)


# --- recordings ------------------------------------------------------------------------------------------------------


class Recordings:
    """The recordings below a folder, of any length and rate; read at `rate`, one channel.

    One that cannot be read is named once, and another takes its place.
    """

    def __init__(self, folder: Path, rate: int) -> None:
        self.rate = rate
        found = find_files(folder, _SUFFIXES) if folder.is_dir() else Found()
        self.files = [folder / path for path in paths_of(found.looked_at)]
        self._corrupt: set[Path] = set()
        if not self.files:
            known = ", ".join(suffix.removeprefix(".") for suffix in _SUFFIXES)
            raise DataError(f"views: there are no recordings below {folder}", f"of one of these kinds: {known}")

    def whole(self, random: np.random.Generator) -> Tensor:
        """One of them, ``(1, T)``."""
        return self._of_any(random, lambda path: read_audio(path, rate=self.rate))

    def part(self, length: int, random: np.random.Generator) -> Tensor:
        """``(1, length)`` of one of them, from anywhere; a shorter one is repeated."""
        return self._of_any(random, lambda path: self._part_of(path, length, random))

    def _part_of(self, path: Path, length: int, random: np.random.Generator) -> Tensor:
        there = audio_info(path).frames_at(self.rate)
        if there >= length:
            return read_audio(path, int(random.integers(there - length, endpoint=True)), length, self.rate)
        looped = (int(random.integers(there)) + torch.arange(length)) % there
        return read_audio(path, rate=self.rate)[:, looped]

    def _of_any(self, random: np.random.Generator, read: Callable[[Path], Tensor]) -> Tensor:
        for _ in range(_ATTEMPTS):
            path = self.files[int(random.integers(len(self.files)))]
            try:
                return read(path)
            except DataError as error:
                if path not in self._corrupt:
                    _log.warning("%s; another recording takes its place", error.message)
                    self._corrupt.add(path)
        raise DataError(
            f"views: none of {_ATTEMPTS} recordings tried can be read, {path} for one", "name another folder with path"
        )


# --- signals ---------------------------------------------------------------------------------------------------------


def convolve(x: Tensor, response: Tensor) -> Tensor:
    """``(C, T)`` with ``(L,)``, and of that the first T samples."""
    length = x.shape[-1]
    size = 1 << (length + len(response) - 2).bit_length()
    product = torch.fft.rfft(x, size) * torch.fft.rfft(response, size)
    convolved: Tensor = torch.fft.irfft(product, size)[..., :length]
    return convolved


def _from_its_peak(response: Tensor) -> Tensor:
    return response[int(response.abs().argmax()) :]


def _resample(x: Tensor, length: int) -> Tensor:
    """The samples ``(C, T)`` as `length` samples over the same time, through their Fourier transform."""
    spectrum = torch.fft.rfft(x)[..., : length // 2 + 1]
    resampled: Tensor = torch.fft.irfft(spectrum, length) * (length / x.shape[-1])
    return resampled


def _stft(x: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size)
    return torch.stft(x, size, size // 4, window=window, pad_mode="constant", return_complex=True)


def _istft(spectrum: Tensor, size: int, length: int) -> Tensor:
    return torch.istft(spectrum, size, size // 4, window=torch.hann_window(size), length=length)


def _level(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def _as_loud(made: Tensor, x: Tensor) -> Tensor:
    return made * (_level(x) / _level(made).clamp(min=1e-8))


def _window_of(rate: int) -> int:
    """Samples of a spectrum, a multiple of four."""
    return max(4, round(_WINDOW * rate / 4) * 4)


def _rate_of(data: DataSpec) -> int:
    if data.rate is None:
        raise ValueError("the data does not tell how many samples a second it has")
    return data.rate
