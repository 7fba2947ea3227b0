"""`infomax probe` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import tiny
from conftest import Forked, Infomax
from infomax_cli.runs import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    """A run of two steps, with a checkpoint kept of the first."""
    before = os.environ.get("INFOMAX_CACHE")
    os.environ["INFOMAX_CACHE"] = str(shared_cache)
    try:
        _, run = tiny.train(tmp_path_factory.mktemp("trained"), "train.steps=2", "train.save_every=1", "train.keep=3")
    finally:
        if before is None:
            del os.environ["INFOMAX_CACHE"]
        else:
            os.environ["INFOMAX_CACHE"] = before
    return run


def test_a_run_is_probed_at_every_depth(infomax: Infomax, trained: Run) -> None:
    done = infomax("probe", "vowel", str(trained.path), "--baseline", "random,mfcc,raw")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    depths = [line[0] for line in lines if line and line[0].isdigit()]
    assert depths == ["0", "1", "2", "3", "4", "5"]
    assert "untrained" in done.out
    assert {"mfcc", "raw"} <= {line[0] for line in lines if line}
    assert "chance" in done.out
    assert "l2" in done.out
    assert "rows learnt from" in done.out
    assert f"wrote {trained.path}/probes/vowel-linear.json and vowel-linear.png" in done.err
    assert (trained.path / "probes" / "vowel-linear.png").stat().st_size > 1000


def test_json_alone_is_on_stdout_and_the_same_is_in_the_run(infomax: Infomax, trained: Run) -> None:
    done = infomax("probe", "vowel,speaker", str(trained.path), "--depth", "2", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["run"] == str(trained.path)
    assert list(found["labels"]) == ["vowel", "speaker"]
    assert found["labels"]["speaker"]["test_split"] == "seen"
    kept = json.loads((trained.path / "probes" / "speaker-linear-mean-depth2.json").read_text())
    assert kept == {"run": trained.name, **found["labels"]["speaker"]}


def test_baselines_stay_where_the_same_is_asked_again_without_them(infomax: Infomax, trained: Run) -> None:
    def sources(*words: str) -> list[str]:
        done = infomax("probe", "vowel", str(trained.path), "--depth", "1", *words)
        assert done.code == 0, done.err
        kept = json.loads((trained.path / "probes" / "vowel-linear-depth1.json").read_text())
        return [score["source"] for score in kept["scores"]]

    assert sources("--baseline", "raw") == ["trained", "raw"]
    assert sources() == ["trained", "raw"]
    assert sources("--baseline", "mfcc") == ["trained", "mfcc", "raw"]
    assert sources("data.words=12") == ["trained"]  # other data, other rows


def test_the_newest_run_is_probed_and_data_may_lie_elsewhere(infomax: Infomax, trained: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "copy").symlink_to(trained.path)
    done = infomax("probe", "speaker", "--depth", "0", "--root", str(tmp_path / "elsewhere"), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["run"] == "runs/copy"


def test_an_older_checkpoint_can_be_probed(infomax: Infomax, trained: Run) -> None:
    done = infomax("probe", "speaker", str(trained.path), "--depth", "0", "--step", "1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["labels"]["speaker"]["step"] == 1
    missing = infomax("probe", "speaker", str(trained.path), "--step", "7")
    assert missing.code == 2
    assert "has no checkpoint of step 7" in missing.err


def test_without_an_exported_encoder_the_checkpoint_is_read(infomax: Infomax, trained: Run) -> None:
    with_file = infomax("probe", "speaker", str(trained.path), "--depth", "3", "--json").out
    hidden = trained.encoder_file.rename(trained.path / "hidden")
    try:
        assert infomax("probe", "speaker", str(trained.path), "--depth", "3", "--json").out == with_file
    finally:
        hidden.rename(trained.encoder_file)


def test_a_curve_of_few_labels_is_a_table_and_a_picture(infomax: Infomax, trained: Run) -> None:
    words = ("--depth", "0", "--labels-per-class", "1,3,all", "--repeats", "2", "--baseline", "random,mfcc")
    done = infomax("probe", "speaker", str(trained.path), *words)
    assert done.code == 0, done.err
    assert "; chosen: l2 " in done.out
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.split()}
    assert rows["depth"] == ["1", "3", "all"]
    assert {"0", "untrained", "mfcc"} <= set(rows)
    kept = json.loads((trained.path / "probes" / "speaker-linear-mean-depth0-few.json").read_text())
    assert [result["labels_per_class"] for result in kept["results"]] == [1, 3, None]
    assert [result["scores"][0]["train_rows"] for result in kept["results"]] == [3, 9, 27]
    assert (trained.path / "probes" / "speaker-linear-mean-depth0-few.png").stat().st_size > 1000
    alone = infomax(
        "probe", "speaker", str(trained.path), "--depth", "0", "--labels-per-class", "3", "--repeats", "2", "--json"
    )
    assert json.loads(alone.out)["labels"]["speaker"]["scores"][0] == kept["results"][1]["scores"][0]


def test_the_data_may_have_changed_since(infomax: Infomax, trained: Run) -> None:
    done = infomax("probe", "vowel", str(trained.path), "data.words=12", "--depth", "0", "--json")
    assert done.code == 0, done.err
    usual = infomax("probe", "vowel", str(trained.path), "--depth", "0", "--json")
    rows = [json.loads(one.out)["labels"]["vowel"]["scores"][0]["train_rows"] for one in (done, usual)]
    assert rows[0] > rows[1]


def test_a_change_of_the_data_that_is_wrong_is_blamed_for_it(infomax: Infomax, trained: Run) -> None:
    done = infomax("probe", "vowel", str(trained.path), "data.words=few")
    assert done.code == 2
    assert f"error: {trained.recipe_file} with data.words=few: data.words must be a whole number" in done.err


def test_pooling_a_label_that_has_a_grid_is_told_to_do_nothing(infomax: Infomax, trained: Run) -> None:
    done = infomax("probe", "vowel", str(trained.path), "--depth", "0", "--pool", "mean")
    assert "note: vowel: --pool mean does nothing" in done.err


def test_few_labels_are_drawn_several_times(infomax: Infomax, trained: Run) -> None:
    words = ("--depth", "0", "--labels-per-class", "3", "--repeats", "3")
    done = infomax("probe", "speaker", str(trained.path), *words)
    assert done.code == 0, done.err
    assert " ± " in done.out
    assert done.out.splitlines()[0].startswith("speaker: linear, pool mean, 3 labels a class; learnt on train, tested")
    assert "1 label a class" in infomax("probe", "speaker", str(trained.path), *words[:3], "1").out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["vowl"], "the data (syllables) has no label 'vowl'", "did you mean vowel? there are: speaker, syllable, "),
        (["vowel", "--depth", "6"], "--depth 6: the encoder has depths 0 to 5", "--depth all"),
        (["vowel", "--depth", "top"], "--depth top: not a depth", "all, last or a number"),
        (["vowel", "--classifier", "svm"], "--classifier svm: not known", "linear, mlp, knn"),
        (["vowel", "--pool", "max"], "--pool max: not known", "mean, last, none"),
        (["vowel", "--baseline", "random,mfc"], "--baseline mfc: not known", "did you mean mfcc?"),
        (["vowel", "--protocol", "gimm"], "--protocol gimm: there is no such protocol", "did you mean gim?"),
        (["vowel", "--device", "warp"], "--device warp", "cpu"),
        (["vowel", "train.lr=1"], "train.lr=1: the encoder is that of", "data.path="),
        (["vowel", "--labels-per-class", "few"], "--labels-per-class few: 'few' is no number", "1,2,4,8,all"),
        (["vowel", "--labels-per-class", "0,2"], "--labels-per-class 0: must be at least 1", ""),
        (["vowel", "--labels-per-class", "2,2"], "--labels-per-class: give each number once", ""),
        (["speaker", "--draws", "2"], "--draws 2: this encoder has no Gaussians to draw from", "leave out --draws"),
        (["vowel", "--repeats", "2"], "--repeats draws the few labels anew", "--labels-per-class"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_what_to_do(
    infomax: Infomax, trained: Run, words: list[str], message: str, hint: str
) -> None:
    done = infomax("probe", words[0], str(trained.path), *words[1:])
    assert done.code == 2
    assert done.out == ""
    assert f"error: {message}" in done.err
    assert not hint or any(line.startswith("hint: ") and hint in line for line in done.err.splitlines())
    assert "Traceback" not in done.err


def test_a_run_that_is_not_there_is_told(infomax: Infomax) -> None:
    done = infomax("probe", "vowel", "nosuch")
    assert (done.code, done.out) == (2, "")
    assert "error: there is no run or recipe 'nosuch'" in done.err


def test_a_damaged_encoder_is_told(infomax: Infomax, trained: Run) -> None:
    whole = trained.encoder_file.read_bytes()
    trained.encoder_file.write_bytes(whole[: len(whole) // 2])
    try:
        done = infomax("probe", "vowel", str(trained.path))
    finally:
        trained.encoder_file.write_bytes(whole)
    assert done.code == 1
    assert f"error: {trained.encoder_file} cannot be read as encoder weights" in done.err


def test_ctrl_c_ends_it_with_nothing_half_written(forked: Forked, trained: Run) -> None:
    before = sorted(trained.path.rglob("*"))
    halt = (
        "from infomax_cli.core import probe_rows\n"
        "inner = probe_rows.extract\n"
        "def slow(*args, **kwargs):\n"
        "    import pathlib, time\n"
        "    pathlib.Path('encoding').touch()\n"
        "    time.sleep(60)\n"
        "probe_rows.extract = slow\n"
    )
    child = forked("probe", "vowel", str(trained.path), before=halt)
    child.wait_for("encoding")
    child.signal(signal.SIGINT)
    done = child.wait()
    assert done.code == 130
    assert done.out == ""
    assert "Traceback" not in done.err
    assert sorted(trained.path.rglob("*")) == before
