"""Crops of 1.28 s a second, from FLACs of 15 s: ours, which seeks and reads only the crop, beside decoding all of it.

python benchmarks/crops.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from measure import compare, write_result

from infomax_cli import registry

CROP, RATE, FILES = 20480, 16000, 40


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_corpus(Path(folder))
        dataset = registry.load("datasets", "librispeech")(crop=CROP, validation_fraction=0.0)
        split = dataset.split(Path(folder), "train")
        random = np.random.default_rng(0)
        starts = random.integers(0, 15 * RATE - CROP, FILES)

        def ours() -> None:
            for index in range(len(split)):
                split[index, index]

        def whole() -> None:
            for path, start in zip(paths[: len(split)], starts, strict=False):
                wave, _ = soundfile.read(path, dtype="float32")
                torch.from_numpy(wave[start : start + CROP])

        ratio = compare(ours, whole, pairs=9)
    rate = len(split) / ratio.ours
    print(f"{rate:.0f} crops a second; decoding whole files takes {ratio} times longer")
    print("written:", write_result("crops", {"crops_a_second": rate, "whole_over_ours": ratio}), file=sys.stderr)


def _write_corpus(root: Path) -> list[Path]:
    """Noise shaped like speech, in LibriSpeech's layout."""
    random, paths = np.random.default_rng(0), []
    for number in range(FILES):
        folder = root / "LibriSpeech" / "train-clean-100" / str(number % 4) / "1"
        folder.mkdir(parents=True, exist_ok=True)
        wave = np.cumsum(random.standard_normal(15 * RATE)) * 1e-3
        path = folder / f"{number % 4}-1-{number:04d}.flac"
        soundfile.write(path, np.tanh(wave - wave.mean()) * 0.3, RATE)
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
