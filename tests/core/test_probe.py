"""Probes: what is there is found, what is not is not, and no label touches the encoder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from infomax_cli.core.api import DataError, UsageError
from infomax_cli.core.blocks import module_of
from infomax_cli.core.probe import probe
from infomax_cli.core.probe_options import ProbeOptions, parse_labels
from infomax_cli.core.probe_result import ProbeResult, Score, write_result
from infomax_cli.core.probe_rows import few
from infomax_cli.core.rows import Rows
from infomax_cli.core.subject import Subject, untrained
from infomax_cli.errors import CheckpointError
from infomax_cli.runs import Run
from planted import LABELS, Planted, subject
from tiny import scalars


def probed(label: str, given: Subject | None = None, **options: object) -> ProbeResult:
    return probe(given or subject(), [label], ProbeOptions(**options))[label]  # type: ignore[arg-type]


class Told:
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.left = 0

    def stage(self, what: str, total: int) -> None:
        assert self.left == 0, self.stages[-1]
        self.stages.append(what)
        self.left = total

    def advance(self) -> None:
        self.left -= 1


@pytest.fixture(scope="module")
def everything() -> dict[str, ProbeResult]:
    """Every depth and baseline, for labels of all kinds."""
    options = ProbeOptions(baselines=("random", "mfcc", "raw"))
    return probe(subject(), ["pitch", "voice", "sounding", "later", "luck"], options)


# --- what is found ---------------------------------------------------------------------------------------------------


def test_what_can_be_heard_is_found_and_what_cannot_is_not(everything: dict[str, ProbeResult]) -> None:
    assert [score.depth for score in everything["pitch"].of("trained")] == list(range(6))
    assert everything["pitch"].accuracy("trained", 0) > 0.9
    assert everything["sounding"].accuracy("trained", 0) > 0.95
    assert everything["luck"].accuracy("trained", 0) < 0.6
    assert everything["pitch"].chance == 0.25
    assert 0.5 < everything["sounding"].chance < 0.7


def test_hops_widths_and_rows_are_told(everything: dict[str, ProbeResult]) -> None:
    found = everything["pitch"].of("trained")
    assert [score.hop for score in found] == [5, 20, 40, 80, 160, 160]
    assert [score.hop_ms for score in found] == [0.3125, 1.25, 2.5, 5.0, 10.0, 10.0]
    assert [score.dims for score in found] == [8, 8, 8, 8, 8, 6]
    assert {(score.train_rows, score.test_rows) for score in found} == {(48, 24)}
    assert len({score.test_rows for score in everything["sounding"].scores}) == 1


def test_baselines_stand_beside_every_depth(everything: dict[str, ProbeResult]) -> None:
    for label, raw in (("pitch", "log spectrum"), ("sounding", "raw windows"), ("later", "raw windows")):
        result = everything[label]
        assert [score.depth for score in result.of("random")] == list(range(6))
        assert [(score.layer, score.depth) for score in result.of("mfcc")] == [("mfcc", None)]
        assert [(score.layer, score.depth) for score in result.of("raw")] == [(raw, None)]
    assert everything["pitch"].accuracy("raw") == 1.0
    assert [everything[label].of("mfcc")[0].dims for label in ("pitch", "sounding")] == [78, 39]
    assert everything["sounding"].of("raw")[0].dims == 400


def test_a_label_is_tested_on_the_split_that_its_dataset_names(everything: dict[str, ProbeResult]) -> None:
    assert (everything["voice"].train_split, everything["voice"].test_split) == ("train", "seen")
    assert (everything["pitch"].train_split, everything["pitch"].test_split) == ("train", "test")
    assert {score.test_rows for score in everything["voice"].scores} == {12}


def test_one_depth_of_one_label_scores_as_it_does_among_all(everything: dict[str, ProbeResult]) -> None:
    alone = probed("voice", depth=2)
    assert [score.depth for score in alone.scores] == [2]
    assert alone.scores[0] == everything["voice"].of("trained")[2]
    assert probed("sounding", depth=3).scores[0] == everything["sounding"].of("trained")[3]
    assert probed("pitch", depth="last").scores[0] == everything["pitch"].of("trained")[5]


def test_no_label_touches_the_encoder() -> None:
    given = subject(encoder={"name": "speech_conv", "channels": 8, "context_channels": 6, "norm": "batch"})
    encoder = module_of(given.encoder).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    probe(given, ["pitch", "sounding"], ProbeOptions(depth=5, baselines=("random",)))
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert all(not p.requires_grad and p.grad is None for p in encoder.parameters())


def test_the_same_seed_finds_the_same() -> None:
    options = ProbeOptions(depth=4, baselines=("random",), seed=3)
    torch.manual_seed(1)
    one = probe(subject(), ["pitch", "sounding"], options)
    torch.manual_seed(2)
    assert probe(subject(), ["pitch", "sounding"], options) == one


def test_each_split_is_encoded_once_for_all_labels() -> None:
    told = Told()
    probe(subject(), ["pitch", "voice", "sounding"], ProbeOptions(depth=0), watcher=told)
    assert told.left == 0
    assert told.stages[:3] == [f"trained encoder: encoding {split}" for split in ("train", "test", "seen")]
    assert sum("encoding" in stage for stage in told.stages) == 3


def test_probe_splits_may_be_a_method() -> None:
    class Method(Planted):
        def probe_splits(self) -> dict[str, tuple[str, str]]:  # type: ignore[override]
            return {"pitch": ("seen", "train")}

    assert probed("pitch", subject(dataset=Method()), depth=0).train_split == "seen"


@pytest.mark.parametrize("pool", ["mean", "last", "none"])
def test_items_can_be_read_pooled_by_their_last_frame_or_frame_by_frame(pool: str) -> None:
    found = probed("pitch", pool=pool, depth=1)
    (score,) = found.scores
    assert score.test_rows == 24 if pool != "none" else score.test_rows > 1000
    assert found.pool == pool
    if pool != "last":  # the last frame of a tone that may be off
        assert found.accuracy() > 0.5


@pytest.mark.parametrize("classifier", ["linear", "mlp", "knn"])
def test_every_classifier_reads_a_pitch(classifier: str) -> None:
    found = probed("pitch", classifier=classifier, depth=0)
    assert found.accuracy() > 0.9
    assert found.scores[0].choice.keys() == {"linear": {"l2"}, "mlp": {"hidden", "epochs"}, "knn": {"k"}}[classifier]


def test_balanced_accuracy_counts_each_class_alike() -> None:
    from infomax_cli.core.classifiers import Fit
    from infomax_cli.core.probe import _measure

    rows = Rows(torch.zeros(10, 1), torch.tensor([0] * 8 + [3] * 2), torch.arange(10))
    always = Fit(lambda x: torch.zeros(len(x), dtype=torch.long), {})
    assert _measure(always, rows) == {"accuracy": pytest.approx(0.8), "balanced_accuracy": pytest.approx(0.5)}


# --- baselines -------------------------------------------------------------------------------------------------------


def test_the_untrained_encoder_has_weights_of_its_own_by_the_seed() -> None:
    given = subject()

    def weights(encoder: object) -> Tensor:
        assert isinstance(encoder, nn.Module)
        return torch.cat([p.flatten() for p in encoder.parameters()])

    own, one, same, other = (weights(e) for e in (given.encoder, *(untrained(given, seed) for seed in (0, 0, 1))))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, own)


# --- few labels ------------------------------------------------------------------------------------------------------


def test_few_labels_are_so_many_items_or_frames_of_each_class() -> None:
    items = torch.arange(30).repeat_interleave(4)
    by_item = Rows(torch.randn(120, 2), items % 3, items)
    chosen, lacking = few(by_item, 2, by_item=True, seed=(0,))
    assert lacking == {}
    assert (chosen.labels.bincount() == 8).all()
    assert [len(set(chosen.items[chosen.labels == value].tolist())) for value in range(3)] == [2, 2, 2]
    by_frame = Rows(torch.randn(120, 2), torch.arange(120) % 3, items)
    chosen, _ = few(by_frame, 2, by_item=False, seed=(0,))
    assert chosen.labels.bincount().tolist() == [2, 2, 2]
    again, _ = few(by_frame, 2, by_item=False, seed=(0,))
    other, _ = few(by_frame, 2, by_item=False, seed=(1,))
    assert torch.equal(chosen.features, again.features)
    assert not torch.equal(chosen.features, other.features)


def test_few_labels_are_learnt_from_and_all_are_tested() -> None:
    found = probed("pitch", labels_per_class=2, repeats=4, depth=0)
    (score,) = found.scores
    assert (score.train_rows, score.test_rows) == (8, 24)
    assert len(score.accuracies) == len(score.choices) == 4
    assert score.accuracy == pytest.approx(sum(score.accuracies) / 4)
    assert score.deviation == pytest.approx(float(torch.tensor(score.accuracies).double().std()))
    assert probed("sounding", labels_per_class=2, depth=0).scores[0].train_rows == 4
    assert probed("pitch", labels_per_class=1, depth=0).scores[0].train_rows == 4


def test_every_depth_learns_from_the_same_few() -> None:
    chosen = []
    for seen in (torch.zeros(48, 2), torch.ones(48, 9)):
        rows = Rows(seen, torch.arange(48) % 4, torch.arange(48))
        chosen.append(few(rows, 3, by_item=True, seed=(0, "luck", 1))[0].items)
    assert torch.equal(*chosen)


def test_fewer_labels_than_asked_for_are_told() -> None:
    found = probed("pitch", labels_per_class=20, depth=0)
    assert "class low has 12 labelled, fewer than 20; all are used" in found.notes
    assert found.scores[0].train_rows == 48


# --- what is asked wrongly, and what is missing ----------------------------------------------------------------------


def test_an_unknown_label_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no label 'pich'") as caught:
        probe(subject(), ["pich"])
    assert caught.value.hint == f"did you mean pitch? there are: {', '.join(LABELS)}"


def test_data_without_labels_says_so() -> None:
    with pytest.raises(UsageError, match="has no labels to probe"):
        probe(subject(dataset=Planted(labels=[])), ["pitch"])


@pytest.mark.parametrize("depth", [6, -1, 99])
def test_a_depth_that_is_not_there_names_those_that_are(depth: int) -> None:
    with pytest.raises(UsageError, match="the encoder has depths 0 to 5"):
        probed("pitch", depth=depth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "gym"}, "no such protocol"),
        ({"protocol": "gim", "classifier": "knn"}, "for the linear classifier"),
        ({"protocol": "gim", "labels_per_class": 3}, "uses all labels"),
        ({"repeats": 3}, "draws the few labels anew"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        probed("pitch", **options)


@pytest.mark.parametrize("sizes", [{"train": 24, "seen": 12}, {"train": 24, "seen": 12, "test": 0}])
def test_a_missing_split_is_told_and_other_labels_are_probed(sizes: dict[str, int]) -> None:
    given = subject(dataset=Planted(sizes=sizes))
    assert list(probe(given, ["pitch", "voice"], ProbeOptions(depth=0))) == ["voice"]
    with pytest.raises(DataError, match=r"there is nothing to probe: .*test"):
        probe(given, ["pitch"])


def test_a_label_that_nothing_has_is_told() -> None:
    with pytest.raises(DataError, match="nothing in train and test has the label unknown"):
        probe(subject(), ["unknown"])
    assert list(probe(subject(), ["unknown", "pitch"], ProbeOptions(depth=0))) == ["pitch"]


def test_classes_tested_but_never_learnt_are_told_and_count_as_wrong() -> None:
    found = probed("pitch", subject(dataset=Planted(pitches=2)), depth=0)
    assert 0.4 < found.accuracy() <= 0.5
    assert "classes that never occur in train: 2; their 12 of 24 tested rows count as wrong" in found.notes


def test_labels_are_taken_apart_at_commas_unless_one_holds_a_comma() -> None:
    assert parse_labels("a, b,c", ["a", "b", "c"]) == ("a", "b", "c")
    assert parse_labels("a,b", ["a,b", "c"]) == ("a,b",)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_result_is_kept_as_json_picture_and_scalars(tmp_path: Path, everything: dict[str, ProbeResult]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 20}\n{"step": 40}\n')
    result = everything["pitch"]
    file, picture = write_result(Run(tmp_path), result)
    assert file == tmp_path / "probes" / "pitch-linear-mean.json"
    kept = json.loads(file.read_text())
    assert kept["label"] == "pitch"
    assert [score["accuracy"] for score in kept["scores"]] == [score.accuracy for score in result.scores]
    assert kept == {"run": tmp_path.name, **json.loads(json.dumps(result.to_dict()))}
    assert picture.read_bytes().startswith(b"\x89PNG")
    logged = scalars(Run(tmp_path))
    assert logged["probe/pitch/3"] == [(40, pytest.approx(result.scores[3].accuracy))]
    assert set(logged) == {
        *(f"probe/pitch/{depth}" for depth in range(6)),
        *(f"probe/pitch/random/{depth}" for depth in range(6)),
        "probe/pitch/mfcc",
        "probe/pitch/raw",
    }


def test_what_was_probed_differently_has_files_of_its_own() -> None:
    plain = probed("pitch", depth=0)
    changes: list[dict[str, object]] = [
        {},
        {"classifier": "knn"},
        {"pool": "last"},
        {"protocol": "gim"},
        {"labels_per_class": 5},
        {"depths": (3,)},
        {"seed": 7},
        {"step": 500},
        {"label": "voice"},
    ]
    stems = [dataclasses.replace(plain, **change).stem for change in changes]  # type: ignore[arg-type]
    assert len(set(stems)) == len(stems)
    strange = dataclasses.replace(plain, label="../a b/ü").stem
    assert "/" not in strange
    assert " " not in strange


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "probes").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write what was found to .*probes"):
        write_result(Run(tmp_path), probed("pitch", depth=0))


def test_the_best_of_a_source_is_its_accuracy(everything: dict[str, ProbeResult]) -> None:
    result = everything["luck"]
    assert result.accuracy() == max(score.accuracy for score in result.of("trained"))
    with pytest.raises(KeyError):
        result.accuracy("mfcc", 3)
    choices = ({"l2": 1.0}, {"l2": 0.1}, {"l2": 0.1})
    score: Score = dataclasses.replace(result.scores[0], choices=choices)
    assert score.choice == {"l2": 0.1}
