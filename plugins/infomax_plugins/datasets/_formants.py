"""Speech by source and filter: words of three stop-vowel syllables, by many voices, with exact boundaries.

A pulse train with jitter, shimmer and breath (the polynomial pulse of Klatt & Klatt 1990) runs through a cascade of
resonators (Klatt 1980) whose first three formants move from the place of the stop into the vowel: onset frequencies
follow locus equations, ``onset = intercept + slope * vowel`` (Lindblom 1963; Sussman et al. 1991). Voices differ in
vocal tract length, pitch, rate, breath and in where each formant of each vowel lies. Numpy and scipy only; lengths and
boundaries are in samples at `RATE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

Array = NDArray[np.floating[Any]]

SYNTH_VERSION = 1
"""Part of the cache's key: raise it with every change that is heard."""

RATE = 16000
STEP = 16  # samples of a control frame (1 ms), over which the filters stand still
CONSONANTS = ("b", "d", "g")
VOWELS = ("a", "i", "u")
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in VOWELS)

# Formants of a vocal tract of scale 1, in Hz: men's means (Peterson & Barney 1952), above them a neutral tube's.
_VOWEL_FORMANTS = {"a": (730.0, 1090.0, 2440.0), "i": (270.0, 2290.0, 3010.0), "u": (300.0, 870.0, 2240.0)}
_UPPER_FORMANTS = np.array([3500.0, 4500.0, 5500.0, 6500.0, 7500.0])
_BANDWIDTHS = np.array([70.0, 90.0, 140.0, 200.0, 260.0, 330.0, 400.0, 480.0])
_HIGHEST = 0.47 * RATE  # Hz, of the resonances that are made

_CASCADE = 1 + len(_BANDWIDTHS)  # the tilt's pole and the formants, one after the other; the burst's resonator beside


@dataclass(frozen=True)
class _Place:
    """How a place of articulation sounds: locus equations for F1 to F3 (Hz), the burst (Hz), durations (s)."""

    slope: tuple[float, float, float]
    intercept: tuple[float, float, float]
    burst_centre: float
    burst_follows_f2: float  # 0: the burst has a frequency of its own; 1: that of F2 at the onset (velars)
    burst_width: float
    burst_level: float
    burst: tuple[float, float]
    transition: tuple[float, float]


_PLACES = {
    "b": _Place((0.15, 0.80, 0.50), (180, 130, 1050), 650, 0.0, 900, 0.5, (0.005, 0.014), (0.045, 0.085)),
    "d": _Place((0.15, 0.45, 0.40), (180, 1000, 1600), 3900, 0.0, 1300, 0.8, (0.007, 0.020), (0.050, 0.095)),
    "g": _Place((0.15, 0.75, 0.60), (180, 560, 650), 1100, 0.8, 500, 1.0, (0.010, 0.028), (0.055, 0.105)),
}


@dataclass(frozen=True)
class Voice:
    """A speaker. `vowels` and `onsets` are factors ``(3, 3)`` on F1 to F3: each vowel's, and each place's onsets."""

    tract: float  # every formant times this; about 1 for a man, 1.17 for a woman
    pitch: float  # Hz
    pitch_range: float  # of the contour, as a share of the pitch
    duration: float  # every duration times this
    breath: float  # noise beside the pulses, which are about 1
    open_quotient: float
    tilt: float  # pole of the source's low-pass
    bandwidth: float  # every bandwidth times this
    jitter: float
    shimmer: float
    voice_bar: float  # how loud the voice is while the tract is closed
    vowels: Array
    onsets: Array


@dataclass(frozen=True)
class Syllable:
    """Boundaries in samples of the word: the tract closes at `onset` and opens at `release`; `end` is exclusive.

    The consonant is the closure, the burst and the first half of the formant transition, up to `vowel`; the vowel is
    the rest, the transition into the next closure included.
    """

    name: str
    onset: int
    release: int
    vowel: int
    end: int


@dataclass(frozen=True)
class Word:
    """A word ready to be synthesized: its `length` in samples, its boundaries, and tracks of one value a `STEP`."""

    voice: Voice
    syllables: tuple[Syllable, ...]
    length: int
    formants: Array  # (3, frames) in Hz
    pitch: Array  # (frames,) in Hz
    voicing: Array  # (frames,) amplitude of the pulses
    tilt: Array  # (frames,) pole of the source's low-pass
    burst: Array  # (3, frames): amplitude, centre and width of the burst in Hz
    seed: int  # of its noise, jitter, shimmer and channel


def draw_voice(rng: np.random.Generator) -> Voice:
    tract = float(np.exp(rng.uniform(np.log(0.88), np.log(1.32))))
    return Voice(
        tract=tract,
        pitch=float(np.clip(108 * tract**2.9 * np.exp(rng.normal(0, 0.16)), 75, 330)),
        pitch_range=rng.uniform(0.06, 0.22),
        duration=float(np.exp(rng.uniform(np.log(0.8), np.log(1.2)))),
        breath=float(np.exp(rng.uniform(np.log(0.01), np.log(0.12)))),
        open_quotient=rng.uniform(0.45, 0.8),
        tilt=rng.uniform(0.0, 0.5),
        bandwidth=rng.uniform(0.8, 1.5),
        jitter=rng.uniform(0.003, 0.015),
        shimmer=rng.uniform(0.02, 0.10),
        voice_bar=rng.uniform(0.0, 0.6),
        vowels=np.exp(rng.normal(0, 0.07, (3, 3))),
        onsets=np.exp(rng.normal(0, 0.08, (3, 3))),
    )


def plan_word(voice: Voice, syllables: Sequence[str], rng: np.random.Generator) -> Word:
    """Decide when what is said, without synthesizing it. `syllables` are names out of `SYLLABLES`."""
    timed, length, voiced = _schedule(voice, syllables, rng)
    frames = length // STEP
    times = (np.arange(frames) + 0.5) * STEP
    formants, onsets = _formant_tracks(voice, timed, rng, times)
    voicing, tilt = _source_tracks(voice, timed, voiced, rng, times)
    return Word(
        voice=voice,
        syllables=timed,
        length=length,
        formants=formants,
        pitch=_pitch_track(voice, timed, rng, times),
        voicing=voicing,
        tilt=tilt,
        burst=_burst_track(voice, timed, voiced, onsets, rng, times),
        seed=int(rng.integers(2**63)),
    )


def synthesize(words: Sequence[Word]) -> list[NDArray[np.int16]]:
    """The audio of each word, as long as its `length`. Words are computed side by side: some 200 at a time is best."""
    rngs = [np.random.default_rng(word.seed) for word in words]
    source, burst = _stack([_source(word, rng) for word, rng in zip(words, rngs, strict=True)])
    speech = _resonate(words, source, burst)
    return [
        _record(speech[: word.length, column], word, rng)
        for column, (word, rng) in enumerate(zip(words, rngs, strict=True))
    ]


# --- planning: boundaries and control tracks -------------------------------------------------------------------------


def _schedule(
    voice: Voice, names: Sequence[str], rng: np.random.Generator
) -> tuple[tuple[Syllable, ...], int, tuple[int, ...]]:
    """Boundaries, the word's length, and where the burst of each syllable gives way to the voice."""

    def lasting(low: float, high: float, stretch: float = 1.0) -> int:
        """A duration in samples, a whole number of control frames."""
        return STEP * max(1, round(rng.uniform(low, high) * stretch * RATE / STEP))

    syllables, voiced = [], []
    now = lasting(0.03, 0.12)
    for position, name in enumerate(names):
        place = _PLACES[name[0]]
        final = 1.25 if position == len(names) - 1 else 1.0  # the last syllable is drawn out
        onset = now
        release = onset + lasting(0.03, 0.07, voice.duration)
        start = release + lasting(*place.burst)
        transition = lasting(*place.transition, voice.duration)
        vowel = start + transition // 2
        end = start + transition + lasting(0.04, 0.11, voice.duration * final)
        syllables.append(Syllable(name, onset, release, vowel, end))
        voiced.append(start)
        now = end
    return tuple(syllables), now + lasting(0.04, 0.12), tuple(voiced)


def _targets(voice: Voice, syllables: Sequence[Syllable], rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """F1 to F3 in Hz, ``(syllables, 3)`` each: at the release, in the vowel, and at the closure that follows."""
    indices = [(CONSONANTS.index(s.name[0]), VOWELS.index(s.name[1])) for s in syllables]
    ideal = np.array([_VOWEL_FORMANTS[VOWELS[v]] for _, v in indices]) * voice.vowels[[v for _, v in indices]]
    around = np.array([ideal[[max(i - 1, 0), min(i + 1, len(ideal) - 1)]].mean(axis=0) for i in range(len(ideal))])
    vowels = (ideal + rng.uniform(0, 0.3) * (around - ideal)) * np.exp(rng.normal(0, 0.05, ideal.shape))

    def onset(consonant: int, vowel: Array) -> Array:
        place = _PLACES[CONSONANTS[consonant]]
        ideal = np.array(place.intercept) + np.array(place.slope) * vowel
        return np.asarray(ideal * voice.onsets[consonant] * np.exp(rng.normal(0, 0.09, 3)))

    onsets = np.array([onset(c, vowel) for (c, _), vowel in zip(indices, vowels, strict=True)])
    # the tract closes for the next stop; after the last vowel it opens to rest
    closures = [onset(c, vowel) for (c, _), vowel in zip(indices[1:], vowels[:-1], strict=True)]
    closures.append(0.8 * vowels[-1] + 0.2 * np.array([500.0, 1500.0, 2500.0]))
    undershoot = rng.uniform(0.15, 0.4) * np.array([0.3, 1, 1])  # the vowel is not quite reached (Lindblom 1963)
    vowels = vowels + undershoot * (onsets - vowels)
    return onsets * voice.tract, vowels * voice.tract, np.array(closures) * voice.tract


def _formant_tracks(
    voice: Voice, syllables: Sequence[Syllable], rng: np.random.Generator, times: Array
) -> tuple[Array, Array]:
    """F1 to F3 over `times`, and their values at the releases ``(syllables, 3)``."""
    onsets, vowels, closures = _targets(voice, syllables, rng)
    points: list[float] = []
    values: list[Array] = []
    for i, syllable in enumerate(syllables):
        steady = 2 * syllable.vowel - syllable.release  # so that `vowel` is halfway
        closing = max(steady, syllable.end - round(rng.uniform(0.03, 0.06) * RATE))
        points += [syllable.release, steady, closing, syllable.end]
        values += [onsets[i], vowels[i], vowels[i], closures[i]]
    tracks = np.array([np.interp(times, points, formant) for formant in np.array(values).T])
    window = np.hanning(15)  # 13 ms: articulators have no corners
    padded = np.pad(tracks, ((0, 0), (7, 7)), mode="edge")
    return np.array([np.convolve(track, window / window.sum(), "valid") for track in padded]), onsets


def _source_tracks(
    voice: Voice, syllables: Sequence[Syllable], voiced: Sequence[int], rng: np.random.Generator, times: Array
) -> tuple[Array, Array]:
    """The amplitude of the voice and the pole of its low-pass: in a closure only a low hum gets out."""
    points: list[float] = []
    levels: list[float] = []
    poles: list[float] = []
    for syllable, start in zip(syllables, voiced, strict=True):
        hum = voice.voice_bar * rng.uniform(0.5, 1.0)
        loud = float(np.exp(rng.normal(0, 0.2)))
        fade = min(round(0.03 * RATE), (syllable.end - syllable.vowel) // 2)
        gentle = 0.25 if syllable is syllables[-1] else 0.8
        points += [syllable.onset, syllable.onset + 80, syllable.release, start, start + 160]
        points += [syllable.end - fade, syllable.end - 48]
        levels += [0.0, hum, 0.7 * hum, 0.3 * hum, loud, loud * 0.9, loud * gentle * 0.8]
        poles += [0.95, 0.95, 0.95, voice.tilt, voice.tilt, voice.tilt, max(voice.tilt, 0.7)]
    points.append(syllables[-1].end)
    levels.append(0.0)
    poles.append(0.9)
    return np.interp(times, points, levels, left=0.0, right=0.0), np.interp(times, points, poles)


def _pitch_track(voice: Voice, syllables: Sequence[Syllable], rng: np.random.Generator, times: Array) -> Array:
    """A falling line with an accent on each syllable."""
    centres = [(s.vowel + s.end) / 2 for s in syllables]
    fall = np.linspace(0.5, -0.5, len(syllables)) * rng.uniform(0.5, 1.2)
    accents = fall + rng.normal(0, 0.35, len(syllables))
    return np.asarray(voice.pitch * (1 + voice.pitch_range * np.interp(times, centres, accents)))


def _burst_track(
    voice: Voice,
    syllables: Sequence[Syllable],
    voiced: Sequence[int],
    onsets: Array,
    rng: np.random.Generator,
    times: Array,
) -> Array:
    """Amplitude, centre and width of the burst over `times`, ``(3, frames)``."""
    track = np.repeat([[0.0], [1000.0], [1000.0]], len(times), axis=1)
    for syllable, start, onset in zip(syllables, voiced, onsets, strict=True):
        place = _PLACES[syllable.name[0]]
        own = place.burst_centre * voice.tract
        centre = (own + place.burst_follows_f2 * (onset[1] - own)) * np.exp(rng.normal(0, 0.25))
        level = place.burst_level * np.exp(rng.normal(0, 0.5))
        decay = (start - syllable.release) / 2
        here = (times >= syllable.release) & (times < start + 2 * decay)
        since = times[here] - syllable.release
        track[0, here] = level * np.exp(-since / decay)
        track[1:, here] = [[centre], [place.burst_width]]
    return track


# --- synthesis: many words side by side ------------------------------------------------------------------------------


def _stack(tracks: Sequence[Array]) -> Array:
    """Tracks of unequal length ``(..., frames)`` side by side, ``(..., longest, words)``, their last values held."""
    longest = max(track.shape[-1] for track in tracks)
    rest = [(0, 0)] * (tracks[0].ndim - 1)
    return np.stack([np.pad(t, [*rest, (0, longest - t.shape[-1])], mode="edge") for t in tracks], axis=-1)


def _source(word: Word, rng: np.random.Generator) -> Array:
    """What excites the tract and what excites the burst, ``(2, samples)``."""
    voice = word.voice
    pitch, voicing, burst = (np.repeat(track, STEP) for track in (word.pitch, word.voicing, word.burst[0]))
    steps = pitch / RATE
    jitter, shimmer = rng.standard_normal((2, int(steps.sum() * 1.2) + 2))  # one of each a cycle

    def cycle(phase: Array) -> NDArray[np.int64]:
        return np.minimum(phase.astype(np.int64), len(jitter) - 1)

    steps *= 1 + voice.jitter * jitter[cycle(np.cumsum(steps))]
    phase = np.cumsum(steps)
    pulses = (1 + voice.shimmer * shimmer[cycle(phase)]) * _pulses(phase % 1.0, steps, voice.open_quotient)
    hiss = rng.standard_normal((2, word.length))
    breath = voice.breath * hiss[0] * np.where(phase % 1.0 < voice.open_quotient, 1.0, 0.4)
    return np.stack([voicing * (pulses + breath), burst * hiss[1]])


def _pulses(within: Array, steps: Array, open_quotient: float) -> Array:
    """The derivative of the glottal flow ``u^2 (1 - u)`` while the glottis is open, u running from 0 to 1, else 0.

    `within` is the phase in the cycle and `steps` its growth in a sample. The jump at the closing is smoothed over two
    samples (polyBLEP: Valimaki & Huovilainen 2007), or it would alias.
    """
    u = within / open_quotient
    pulses = np.where(u < 1, 2 * u - 3 * u * u, 0.0)
    after = (within - open_quotient) / steps  # samples since the closing
    pulses += np.where((after >= -1) & (after < 0), 0.5 * (1 + after) ** 2, 0.0)
    pulses -= np.where((after >= 0) & (after < 1), 0.5 * (1 - after) ** 2, 0.0)
    return pulses


def _coefficients(words: Sequence[Word]) -> tuple[Array, Array, Array]:
    """``y[t] = gain x[t] + b1 y[t-1] + b2 y[t-2]`` of every resonator, ``(frames, resonators, words)`` each."""
    tracks = _stack([word.formants for word in words])  # (3, frames, words)
    frames = tracks.shape[1]
    tract = np.array([word.voice.tract for word in words])
    upper = np.broadcast_to((_UPPER_FORMANTS[:, None] * tract)[:, None], (5, frames, len(words)))
    centres = np.concatenate([tracks, upper])
    wide = _BANDWIDTHS[:, None] * np.array([word.voice.bandwidth for word in words])
    radius = np.exp(-np.pi * wide / RATE)[:, None]
    tilt = _stack([word.tilt for word in words])[None]
    _, centre, width = _stack([word.burst for word in words])
    burst_radius = np.exp(-np.pi * width / RATE)[None]
    burst_angle = (2 * np.pi * np.minimum(centre, _HIGHEST) / RATE)[None]
    radius = np.where(centres < _HIGHEST, radius, 0.0)  # a resonance out of hearing passes all
    b1 = np.concatenate([tilt, 2 * radius * np.cos(2 * np.pi * centres / RATE), 2 * burst_radius * np.cos(burst_angle)])
    b2 = np.concatenate([np.zeros_like(tilt), -(radius**2), -(burst_radius**2)])
    gain = 1 - b1 - b2  # 1 at 0 Hz for the cascade; the burst's is set by its peak
    gain[-1] = ((1 - burst_radius) * 2 * np.sin(burst_angle))[0]
    return tuple(np.ascontiguousarray(c.transpose(1, 0, 2)) for c in (b1, b2, gain))  # type: ignore[return-value]


def _resonate(words: Sequence[Word], source: Array, burst: Array) -> Array:
    """Run the sources ``(samples, words)`` through the tract of each word, ``(samples, words)``.

    All resonators step at once, each taking what the one before it gave a sample ago; the output is late by one sample
    a resonator, which is made up for here.
    """
    b1, b2, gain = _coefficients(words)
    late = _CASCADE - 1
    samples, count = source.shape
    source = np.concatenate([source, np.zeros((late, count))])
    burst = np.concatenate([np.zeros((late, count)), burst])
    output = np.empty_like(source)
    shape = (_CASCADE + 1, count)
    before, earlier, x, part = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.empty(shape)
    for t in range(samples + late):
        frame = min(t // STEP, len(b1) - 1)
        x[0] = source[t]
        x[1:_CASCADE] = before[: _CASCADE - 1]
        x[_CASCADE] = burst[t]
        np.multiply(b2[frame], earlier, out=earlier)
        np.multiply(b1[frame], before, out=part)
        earlier += part
        np.multiply(gain[frame], x, out=part)
        earlier += part
        before, earlier = earlier, before
        np.add(before[_CASCADE - 1], before[_CASCADE], out=output[t])
    return output[late:]


# --- recording: noise and channel ------------------------------------------------------------------------------------


def _record(speech: Array, word: Word, rng: np.random.Generator) -> NDArray[np.int16]:
    """Add noise of a random colour at a random level, pass both through a random channel, and set the volume."""
    spoken = slice(word.syllables[0].onset, word.syllables[-1].end)
    speech = speech / np.sqrt(np.mean(speech[spoken] ** 2))
    noise = _noise(len(speech), rng)
    ratio = rng.uniform(6.0, 26.0)  # dB
    heard = signal.sosfilt(_channel(rng), speech + 10 ** (-ratio / 20) * noise)
    level = 0.06 * 10 ** (rng.uniform(-6, 6) / 20)  # root mean square, about that of read speech
    heard *= min(level / np.sqrt(np.mean(heard[spoken] ** 2)), 0.98 / np.abs(heard).max())
    return np.asarray(np.round(heard * 32767), dtype=np.int16)


def _noise(length: int, rng: np.random.Generator) -> Array:
    """Noise of unit power whose spectrum falls by 0.6 to 6 dB an octave."""
    size = fft.next_fast_len(length, real=True)
    spectrum = fft.rfft(rng.standard_normal(size))
    bins = np.arange(len(spectrum))
    spectrum *= np.maximum(bins, 60 * size / RATE) ** -rng.uniform(0.1, 1.0)  # flat below 60 Hz
    noise = fft.irfft(spectrum, size)[:length]
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def _channel(rng: np.random.Generator) -> Array:
    """Second-order sections ``(4, 6)``: a tilt, and three broad peaks or dips of up to 8 dB (peaking equalizers)."""
    sections = [[1.0, rng.uniform(-0.5, 0.5), 0.0, 1.0, 0.0, 0.0]]
    for _ in range(3):
        angle = 2 * np.pi * np.exp(rng.uniform(np.log(200), np.log(6000))) / RATE
        spread = np.sin(angle) / (2 * rng.uniform(0.7, 3.0))
        boost = 10 ** (rng.uniform(-8, 8) / 40)
        top = [1 + spread * boost, -2 * np.cos(angle), 1 - spread * boost]
        bottom = [1 + spread / boost, -2 * np.cos(angle), 1 - spread / boost]
        sections.append([value / bottom[0] for value in (*top, *bottom)])
    return np.array(sections)
