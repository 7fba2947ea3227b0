"""A setting that is wrong is wrong usage, whichever verb it is given to and whoever finds it out."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from conftest import Infomax
from infomax_cli.runs import Run
from processes import Outcome

_DIGITS = "dim-digits"
_SOUND = "gim-syllables"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((_SOUND, "loss.negative=3"), "loss.negative is unknown"),
        ((_SOUND, "loss.negatives=0"), "infonce: negatives is 0"),
        ((_SOUND, "train.lr=-1"), "train.lr must be above 0"),
        ((_SOUND, "train.steps=two"), "train.steps must be a whole number"),
        ((_SOUND, "--amp", "bf17"), "train.amp must be one of none, bf16, fp16"),
        ((_SOUND, "encoder.channels=0"), "speech_conv: channels is 0"),
        ((_SOUND, "data.crop=10"), "syllables: crop is 10"),
        ((_SOUND, "cut=[9]"), "cut: there is nothing to cut after stage 9"),
        ((_SOUND, "--splits", "9"), "--splits 9"),
        ((_SOUND, "train.batches_of=dialect"), "train.batches_of: the data has no label 'dialect'"),
        ((_SOUND, "--data", "digits"), "speech_conv reads sound of one channel"),
        ((_SOUND, "loss.steps=400"), "loss infonce does not fit any block"),
        ((_SOUND, "loss.blocks=[9]"), "there is no block 9"),
        ((_SOUND, "--device", "warp"), "--device warp"),
        ((_DIGITS, "--data", "syllables"), "dim_convnet basic32x32 reads images"),
        ((_DIGITS, "encoder.size=31"), "was built for images of 31x31 pixels"),
        ((_DIGITS, "data.size=8"), "was built for images of 16x16 pixels"),
        ((_DIGITS, "encoder.channels=3"), "was built for images of 3 channels"),
        ((_DIGITS, "loss.0.local_map=5x5"), "loss local_dim does not fit block 0"),
        (("amdim-digits", "views.count=1"), "loss amdim does not fit block 0"),
        (("amdim-digits", "encoder.n_rkhs=0"), "amdim_resnet: n_rkhs is 0"),
        ((_DIGITS, "encoder.size=2", "data.size=2"), "are too small for a stage"),
        (("gim-digits", "encoder.patch=40"), "resnet_patches: patch is 40"),
        (("gim-digits", "data.size=5"), "resnet_patches was built for images of 8x8 pixels"),
    ],
)
def test_a_wrong_setting_of_training_is_wrong_usage(infomax: Infomax, words: tuple[str, ...], message: str) -> None:
    _refused(infomax("train", *words, "--dry-run"), message)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        return tiny.train(tmp_path_factory.mktemp("asked"), "train.steps=1")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("probe", "vowel", "RUN", "--data", "digits"), ""),
        (("probe", "vowel", "RUN", "--data", "digit"), "there is no dataset 'digit'"),
        (("probe", "vowel", "RUN", "data.crop=1"), "syllables: crop is 1"),
        (("decode", "RUN", "--depth", "6"), "--depth 6: the encoder has depths 0 to 5"),
        (("decode", "RUN", "--lr", "-1"), "--lr -1.0: must be above 0"),
        (("explain", "RUN", "--label", "word"), "has no label 'word'"),
        (("explain", "RUN", "--label", "vowel", "--dependency", "--batch", "1"), "--batch 1: must be at least 2"),
        (("tsne", "RUN", "--color", "word"), "--color word: the data has no such label"),
        (("tsne", "RUN", "--perplexity", "0"), "--perplexity 0.0: must be above 0"),
        (("embed", "RUN", "--split", "unseen"), "--split unseen: the data has no such split"),
        (("embed", "RUN", "--split", "test", "--data", "digits"), "digits holds images of 1 channel and 8x8 pixels"),
        (("export", "RUN", "--format", "onxx"), "--format onxx: not known"),
        (("compare", "RUN"), "compare takes two runs or more"),
        (("runs", "--runs", "RUNS", "--sort", "speed"), "--sort speed: nothing to sort by"),
        (("data", "syllables", "data.speakers=0"), "syllables: speakers is 0"),
        (("download", "librispeech", "--subset", "dev"), "--subset dev: librispeech has no such subset"),
    ],
)
def test_a_wrong_setting_of_any_other_verb_is_wrong_usage(
    infomax: Infomax, trained: Run, words: tuple[str, ...], message: str
) -> None:
    places = {"RUN": str(trained.path), "RUNS": str(trained.path.parent)}
    _refused(infomax(*(places.get(word, word) for word in words)), message)


def _refused(done: Outcome, message: str) -> None:
    assert (done.code, done.out) == (2, ""), done.err
    (told,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    assert message in told
