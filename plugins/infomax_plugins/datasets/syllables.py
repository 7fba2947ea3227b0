"""`syllables`: a corpus of spoken syllables that needs no download: it is synthesized once, in seconds, and cached.

Words of three stop-vowel syllables out of {b, d, g} x {a, i, u}, as in the corpus of de Boer on which V-GIM was
published, said by many synthetic voices in noise and through random channels; see `_formants`. Everything
about it is known exactly. The same options give the same corpus.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from infomax_cli.core.api import (
    DataError,
    DataSpec,
    Item,
    LabelSpec,
    SplitFacts,
    UsageError,
    cache_root,
    derive_seed,
    numpy_generator,
    write_atomically,
    write_text,
)
from infomax_plugins.datasets._formants import (
    CONSONANTS,
    RATE,
    SYLLABLES,
    SYNTH_VERSION,
    VOWELS,
    Word,
    draw_voice,
    plan_word,
    synthesize,
)

HOP, WINDOW = 160, 400  # label i tells of the samples [160 i, 160 i + 400), by what is said in their middle
PHONES = ("silence", *CONSONANTS, *VOWELS)
SIDE_BY_SIDE = 128  # words synthesized at once

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Index:
    """Where the words lie and what they say. `audio` is the whole corpus, one word after the other."""

    audio: Path
    offsets: Ints  # (words,) in samples of the audio
    lengths: Ints  # (words,)
    speakers: Ints  # (words,)
    syllables: Ints  # (words, 3), indices into SYLLABLES
    edges: Ints  # (words, 7): onset and vowel of each syllable, and the end of the last, in samples of the word
    splits: Mapping[str, tuple[int, int]]  # first word and the one after the last


class Syllables:
    """Synthesized words of three syllables. Items are mono at 16 kHz.

    Splits: `train`; `seen`, other words of train's speakers; `validation` and `test`, each of speakers of their own.
    Every speaker says every syllable. A probe for `speaker` trains on `train` and tests on `seen` (`probe_splits`), any
    other tests on `test`.

    Labels at 10 ms (value i is what is said at sample 160 i + 200): `phone` (silence, b, d, g, a, i, u), `syllable`
    (-1 outside of them) and `vowel` (-1 outside of them). A consonant is its closure, its burst and the first half of
    the formant transition; the rest of the syllable is its vowel. `speaker` is one value an item.

    Options:
        unit: "word", or "syllable": items are syllables cut from the words, with one value an item for `syllable` and
            `vowel` (the published protocol of V-GIM pools each syllable to one vector).
        crop: samples of a training item, cut at a random multiple of 160, filled with zeros and labels of -1 where the
            item is shorter. None: the whole item, filled up to the longest of the corpus.
        speakers: voices in `train`. `test` has half as many, `validation` a quarter.
        words: words a speaker of `train` and of `test` says, at least 9; `seen` and `validation` have a third as many.
        seed: another seed is another corpus, of other voices.
    """

    probe_splits: ClassVar[Mapping[str, tuple[str, str]]] = {"speaker": ("train", "seen")}

    def __init__(
        self,
        *,
        unit: Literal["word", "syllable"] = "word",
        crop: int | None = 10240,
        speakers: int = 40,
        words: int = 27,
        seed: int = 0,
    ) -> None:
        if unit not in ("word", "syllable"):
            raise UsageError(f"syllables: unit is {unit!r}", "use unit=word or unit=syllable")
        if crop is not None and crop < WINDOW:
            raise UsageError(f"syllables: crop is {crop}", f"use at least {WINDOW} samples, or null for whole items")
        if speakers < 1:
            raise UsageError(f"syllables: speakers is {speakers}", "use at least 1")
        if words < len(SYLLABLES):
            raise UsageError(f"syllables: words is {words}", "use at least 9, so that each speaker says each syllable")
        self.unit, self.crop, self.speakers, self.words, self.seed = unit, crop, speakers, words, seed

    def download(self, root: Path) -> None:
        """Synthesize the corpus, unless it is in the cache. Nothing is put under `root`."""
        self._open()

    def found_in(self, root: Path) -> None:
        """Nowhere: see `Dataset`."""

    def describe(self, root: Path) -> DataSpec:
        """Known from the options; nothing is synthesized."""
        per_item = 1 if self.unit == "word" else 3
        return DataSpec(
            channels=1,
            grid=(self.crop or self._longest(),),
            axes=("time",),
            rate=RATE,
            labels=self._labels(),
            sizes={name: per_item * len(said) * words for name, (said, words, _) in self._splits().items()},
        )

    def split(self, root: Path, name: str) -> SyllablesSplit:
        """One of train, seen, validation and test; synthesizes the corpus where it is not in the cache.

        Raises `DataError` for another name, and where the cache cannot be written.
        """
        if name not in self._splits():
            raise DataError(f"syllables has no split {name!r}", f"use one of {', '.join(self._splits())}")
        index = self._open()
        return SyllablesSplit(index, name, self.unit, self.crop or _longest(index, self.unit))

    # --- what the corpus is made of ---

    def _splits(self) -> dict[str, tuple[range, int, str]]:
        """Name -> speakers, words a speaker, and whose voices they are."""
        train, test, validation = self.speakers, max(1, self.speakers // 2), max(1, self.speakers // 4)
        fewer = max(len(SYLLABLES), self.words // 3)
        return {
            "train": (range(train), self.words, "train"),
            "validation": (range(train, train + validation), fewer, "validation"),
            "test": (range(train + validation, train + validation + test), self.words, "test"),
            "seen": (range(train), fewer, "train"),
        }

    def _labels(self) -> dict[str, LabelSpec]:
        names = [f"{group}-{i:03d}" for split, (said, _, group) in self._splits().items() if split == group
                 for i in range(len(said))]  # fmt: skip
        aligned: dict[str, Any] = {"hop": HOP, "offset": WINDOW / 2}
        grid = aligned if self.unit == "word" else {}
        return {
            "speaker": LabelSpec(len(names), names=tuple(names)),
            "syllable": LabelSpec(len(SYLLABLES), names=SYLLABLES, **grid),
            "vowel": LabelSpec(len(VOWELS), names=VOWELS, **grid),
            "phone": LabelSpec(len(PHONES), names=PHONES, **aligned),
        }

    def _plan(self) -> dict[str, list[tuple[int, Word]]]:
        """Every split's words and who says them. More speakers or words leave the others as they are."""
        plan: dict[str, list[tuple[int, Word]]] = {}
        for split, (said, count, group) in self._splits().items():
            plan[split] = []
            for i, speaker in enumerate(said):
                voice = draw_voice(numpy_generator("syllables", self.seed, group, i))
                texts = _balanced_words(count, numpy_generator("syllables", self.seed, group, i, split))
                for j, text in enumerate(texts):
                    rng = numpy_generator("syllables", self.seed, group, i, split, j)
                    plan[split].append((speaker, plan_word(voice, text, rng)))
        return plan

    # --- the cache ---

    @property
    def _folder(self) -> Path:
        key = json.dumps([SYNTH_VERSION, self.speakers, self.words, self.seed])
        return cache_root() / "syllables" / blake2b(key.encode(), digest_size=12).hexdigest()

    def _open(self) -> _Index:
        """The corpus, made where it is missing, half-written or damaged."""
        if (index := _read_index(self._folder)) is not None:
            return index
        try:
            _write(self._folder, self._plan())
        except OSError as error:
            raise DataError(
                f"cannot write the syllables corpus to {self._folder}: {error.strerror or error}",
                "set INFOMAX_CACHE to a folder that can be written",
            ) from error
        if (index := _read_index(self._folder)) is None:
            raise DataError(
                f"what was written to {self._folder} cannot be read back", "check the disk, or set INFOMAX_CACHE"
            )
        return index

    def _longest(self) -> int:
        index = _read_index(self._folder)
        return _longest(index or _parse_index(Path(), _index_of(self._plan())), self.unit)


class SyllablesSplit:
    """Items ``(1, samples)`` of one split; see `Syllables`. May be pickled; each process opens the audio."""

    def __init__(self, index: _Index, name: str, unit: str, crop: int) -> None:
        self._index, self._name, self._unit, self._crop = index, name, unit, crop
        self._audio: NDArray[np.int16] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_audio": None}

    def __len__(self) -> int:
        first, end = self._index.splits[self._name]
        return (end - first) * (1 if self._unit == "word" else 3)

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        """``[i, seed]`` is a crop drawn by `seed`, ``[i, None]`` the whole item.

        Of an item of n samples, whole or cropped, the aligned labels have ``1 + (n - 400) // 160`` values.
        """
        position, seed = key
        word, syllable = self._locate(position)
        edges = self._index.edges[word]
        start, end = (0, self._index.lengths[word]) if syllable is None else edges[[2 * syllable, 2 * syllable + 2]]
        samples = torch.from_numpy(self._read(self._index.offsets[word] + start, end - start))
        aligned = _aligned_labels(edges - start, self._index.syllables[word], len(samples))
        if seed is not None:
            samples, aligned = self._crop_by(derive_seed("crop", seed), samples, aligned)
        labels: dict[str, int | torch.Tensor] = {"speaker": int(self._index.speakers[word])}
        if syllable is not None:
            said = int(self._index.syllables[word, syllable])
            labels |= {"syllable": said, "vowel": said % len(VOWELS), "phone": aligned["phone"]}
        else:
            labels |= aligned
        return Item(samples.unsqueeze(0), labels, self._id(word, syllable))

    def item_labels(self, name: str) -> Sequence[int]:
        """Raises `DataError` for a label that is aligned, or unknown."""
        first, end = self._index.splits[self._name]
        speakers, syllables = self._index.speakers[first:end], self._index.syllables[first:end]
        known = {"speaker": speakers}
        if self._unit == "syllable":
            known = {"speaker": speakers.repeat(3), "syllable": syllables.ravel(), "vowel": syllables.ravel() % 3}
        if name not in known:
            raise DataError(
                f"syllables has no whole-item label {name!r} where unit is {self._unit}", f"it has {', '.join(known)}"
            )
        values: list[int] = known[name].tolist()
        return values

    def facts(self) -> SplitFacts:
        """See `Split`."""
        first, end = self._index.splits[self._name]
        words, edges = range(first, end), self._index.edges
        if self._unit == "word":
            spans = [(0, int(self._index.lengths[word]), word) for word in words]
        else:
            spans = [(int(edges[w, 2 * i]), int(edges[w, 2 * i + 2]), w) for w in words for i in range(3)]
        counts: dict[str, NDArray[np.int64]] = {}
        for start, stop, word in spans:
            for name, values in _aligned_labels(edges[word] - start, self._index.syllables[word], stop - start).items():
                own = np.bincount(values[values >= 0].numpy(), minlength=len(SYLLABLES))
                counts[name] = counts.get(name, np.zeros(len(SYLLABLES), dtype=np.int64)) + own
        aligned = {"phone": len(PHONES)}
        if self._unit == "word":
            aligned |= {"syllable": len(SYLLABLES), "vowel": len(VOWELS)}
        lengths = [stop - start for start, stop, _ in spans]
        return SplitFacts(lengths, counts={name: counts[name][:size].tolist() for name, size in aligned.items()})

    def _locate(self, position: int) -> tuple[int, int | None]:
        """The word in the corpus, and which of its syllables."""
        if not 0 <= position < len(self):
            raise IndexError(f"no item {position} among {len(self)}")
        first = self._index.splits[self._name][0]
        if self._unit == "word":
            return first + position, None
        return first + position // 3, position % 3

    def _id(self, word: int, syllable: int | None) -> str:
        said = [SYLLABLES[i] for i in self._index.syllables[word]]
        number = word - self._index.splits[self._name][0]
        whole = f"{self._name}-{number:05d}-{''.join(said)}"
        return whole if syllable is None else f"{whole}-{syllable + 1}-{said[syllable]}"

    def _read(self, start: int, count: int) -> NDArray[np.float32]:
        if self._audio is None:
            try:
                self._audio = np.load(self._index.audio, mmap_mode="r")
            except (OSError, EOFError, ValueError) as error:
                raise DataError(
                    f"cannot read {self._index.audio}: {error}", "run again: it will be made anew"
                ) from error
        return np.asarray(self._audio[start : start + count], dtype=np.float32) / np.float32(32768)

    def _crop_by(
        self, seed: int, samples: torch.Tensor, aligned: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`crop` samples from a random multiple of `HOP` on, and their labels; zeros and -1 beyond the item's end."""
        first = int(np.random.default_rng(seed).integers(max(0, len(samples) - self._crop) // HOP + 1))
        count = 1 + (self._crop - WINDOW) // HOP
        samples = samples[first * HOP : first * HOP + self._crop]
        cut = {name: values[first : first + count] for name, values in aligned.items()}
        pad = torch.nn.functional.pad
        return (
            pad(samples, (0, self._crop - len(samples))),
            {name: pad(values, (0, count - len(values)), value=-1) for name, values in cut.items()},
        )


def _aligned_labels(edges: Ints, syllables: Ints, samples: int) -> dict[str, torch.Tensor]:
    """`phone`, `syllable` and `vowel` at 10 ms, ``(1 + (samples - 400) // 160,)`` each."""
    centres = np.arange(1 + (samples - WINDOW) // HOP) * HOP + WINDOW // 2
    piece = np.searchsorted(edges, centres, side="right") - 1  # 0, 2, 4: a consonant; 1, 3, 5: a vowel; else silence
    spoken = (piece >= 0) & (piece < 6)
    is_vowel = piece % 2 == 1
    said = syllables[np.where(spoken, piece, 0) // 2]
    consonant, vowel = np.divmod(said, len(VOWELS))
    phone = 1 + np.where(is_vowel, len(CONSONANTS) + vowel, consonant)
    return {
        "phone": torch.from_numpy(np.where(spoken, phone, 0)),
        "syllable": torch.from_numpy(np.where(spoken, said, -1)),
        "vowel": torch.from_numpy(np.where(spoken & is_vowel, vowel, -1)),
    }


def _balanced_words(count: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Words of three syllables; in every nine of them each syllable comes once in each place."""
    nines = [[rng.permutation(len(SYLLABLES)) for _ in range(3)] for _ in range(-(-count // len(SYLLABLES)))]
    words = [tuple(SYLLABLES[i] for i in word) for nine in nines for word in zip(*nine, strict=True)]
    return words[:count]


def _longest(index: _Index, unit: str) -> int:
    return int(index.lengths.max() if unit == "word" else np.diff(index.edges[:, ::2]).max())


def _index_of(plan: Mapping[str, Sequence[tuple[int, Word]]]) -> dict[str, Any]:
    """What `index.json` holds."""
    words = [entry for entries in plan.values() for entry in entries]
    ends = np.cumsum([len(entries) for entries in plan.values()]).tolist()
    return {
        "splits": {name: [end - len(plan[name]), end] for name, end in zip(plan, ends, strict=True)},
        "lengths": [word.length for _, word in words],
        "speakers": [speaker for speaker, _ in words],
        "syllables": [[SYLLABLES.index(s.name) for s in word.syllables] for _, word in words],
        "edges": [
            [edge for s in word.syllables for edge in (s.onset, s.vowel)] + [word.syllables[-1].end]
            for _, word in words
        ],
    }


def _parse_index(audio: Path, value: Mapping[str, Any]) -> _Index:
    arrays = {key: np.array(value[key], dtype=np.int64) for key in ("lengths", "speakers", "syllables", "edges")}
    offsets = np.cumsum(arrays["lengths"]) - arrays["lengths"]
    splits = {name: (first, end) for name, (first, end) in value["splits"].items()}
    return _Index(audio=audio, offsets=offsets, splits=splits, **arrays)


def _read_index(folder: Path) -> _Index | None:
    """The corpus in `folder`; None unless it is there and whole."""
    try:
        index = _parse_index(folder / "audio.npy", json.loads((folder / "index.json").read_text(encoding="utf-8")))
        audio = np.load(index.audio, mmap_mode="r")  # ValueError where the file is shorter than its header says
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return index if audio.shape == (index.lengths.sum(),) and audio.dtype == np.int16 else None


def _write(folder: Path, plan: Mapping[str, Sequence[tuple[int, Word]]]) -> None:
    """Synthesize into `folder`, the index last. Two processes that do so at once write the same files."""
    words = [word for entries in plan.values() for _, word in entries]
    with write_atomically(folder / "audio.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(_synthesize_all(words)))
    write_text(folder / "index.json", json.dumps(_index_of(plan)))


def _synthesize_all(words: Sequence[Word]) -> list[NDArray[np.int16]]:
    """Words of like length side by side, which wastes the least; the audio comes in the order of `words`."""
    by_length = sorted(range(len(words)), key=lambda i: words[i].length)
    audio: dict[int, NDArray[np.int16]] = {}
    for start in range(0, len(words), SIDE_BY_SIDE):
        batch = by_length[start : start + SIDE_BY_SIDE]
        audio.update(zip(batch, synthesize([words[i] for i in batch]), strict=True))
    return [audio[i] for i in range(len(words))]
