import numpy as np
import pytest

from infomax_plugins.datasets import _formants
from infomax_plugins.datasets._formants import RATE, STEP, SYLLABLES, draw_voice, plan_word, synthesize


@pytest.fixture(scope="module")
def words():
    planned = []
    for speaker in range(4):
        rng = np.random.default_rng(speaker)
        voice = draw_voice(rng)
        planned += [plan_word(voice, rng.choice(SYLLABLES, 3), rng) for _ in range(5)]
    return planned


def spectrum(samples, at):
    window = samples[at - 200 : at + 200] * np.hanning(400)
    return np.abs(np.fft.rfft(window, 1600)) ** 2  # 10 Hz a bin


def test_a_word_is_as_long_as_planned_and_its_boundaries_are_in_order(words):
    for word, audio in zip(words, synthesize(words), strict=True):
        assert audio.dtype == np.int16
        assert len(audio) == word.length == STEP * word.pitch.shape[0]
        edges = [edge for s in word.syllables for edge in (s.onset, s.release, s.vowel, s.end)]
        assert edges[0] > 0
        assert edges[-1] < word.length
        assert sorted(edges) == edges
        assert [s.onset for s in word.syllables[1:]] == [s.end for s in word.syllables[:-1]]
        assert 0.4 < word.length / RATE < 1.25


def test_the_energy_of_a_vowel_is_at_its_formants(words, monkeypatch):
    monkeypatch.setattr(_formants, "_record", lambda speech, word, rng: speech)  # without noise and channel
    for word, audio in zip(words, synthesize(words), strict=True):
        for syllable in word.syllables:
            if syllable.name[1] != "a":
                continue
            middle = (syllable.vowel + syllable.end) // 2
            first, second, third = word.formants[:, middle // STEP]
            power = spectrum(audio, middle)
            valley = slice(int((second + third) / 20) - 10, int((second + third) / 20) + 10)
            peaks = power[int(first / 10) - 15 : int(second / 10) + 15]
            assert peaks.max() > 20 * power[valley].mean()


def test_a_burst_follows_its_release(words, monkeypatch):
    monkeypatch.setattr(_formants, "_record", lambda speech, word, rng: speech)
    for word, audio in zip(words, synthesize(words), strict=True):
        fast = np.diff(audio, 2) ** 2  # the hum of the closure has no high frequencies
        for syllable in word.syllables:
            at = syllable.release
            assert fast[at : at + 80].mean() > 5 * fast[at - 160 : at - 40].mean()


def test_the_voice_repeats_itself_at_its_pitch(words, monkeypatch):
    monkeypatch.setattr(_formants, "_record", lambda speech, word, rng: speech)
    for word, audio in zip(words, synthesize(words), strict=True):
        syllable = word.syllables[0]
        middle = (syllable.vowel + syllable.end) // 2
        period = RATE / word.pitch[middle // STEP]
        piece = audio[middle - 320 : middle + 320]
        lags = np.arange(int(period * 0.85), int(period * 1.15) + 1)
        likeness = [np.corrcoef(piece[:-lag], piece[lag:])[0, 1] for lag in lags]
        assert max(likeness) > 0.6


def test_a_word_is_a_pure_function_of_its_plan(words):
    together = synthesize(words)
    alone = synthesize(words[7:8])[0]
    assert np.array_equal(together[7], alone)


def test_resonators_equal_the_recursion_one_by_one(words):
    word = words[0]
    rng = np.random.default_rng(0)
    frames = 30
    source, burst = rng.standard_normal((2, frames * STEP, 1))
    b1, b2, gain = (c[:frames, :, 0] for c in _formants._coefficients([word]))
    # filters that stand still: the sample that each resonator lags behind the one before it makes no difference
    still = [np.repeat(c[:1], len(word.pitch), axis=0)[:, :, None] for c in (b1, b2, gain)]

    def resonator(x, k):
        y = np.zeros(len(x) + 2)
        for t in range(len(x)):
            y[t + 2] = gain[0, k] * x[t] + b1[0, k] * y[t + 1] + b2[0, k] * y[t]
        return y[2:]

    expected = source[:, 0]
    for k in range(b1.shape[1] - 1):
        expected = resonator(expected, k)
    expected = expected + resonator(burst[:, 0], b1.shape[1] - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_formants, "_coefficients", lambda words: tuple(still))
        actual = _formants._resonate([word], source, burst)
    np.testing.assert_allclose(actual[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_this_version_of_the_synthesizer_is_unchanged():
    """Whoever changes what is heard raises `SYNTH_VERSION`, or old caches pass for new ones, and then this."""
    rng = np.random.default_rng(0)
    audio = synthesize([plan_word(draw_voice(rng), ("ba", "di", "gu"), rng)])[0].astype(np.int64)
    assert _formants.SYNTH_VERSION == 1
    assert len(audio) == 11808
    # a last bit may come out otherwise on another machine
    np.testing.assert_allclose(audio[2000::1500], [79, 1977, 165, -604, 217, -294, -7], atol=2)
