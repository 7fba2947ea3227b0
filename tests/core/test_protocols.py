"""Published protocols, each as it was published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from infomax_cli.core.api import Item, UsageError
from infomax_cli.core.features import FrozenEncoder, extract
from infomax_cli.core.probe import probe
from infomax_cli.core.probe_options import ProbeOptions
from infomax_cli.core.protocols import PROTOCOLS, AdamProbe, AdamTraining, find_protocol, fit_adam, fit_sklearn
from infomax_cli.core.rows import Rows
from infomax_cli.core.seeds import derive_seed
from planted import LABELS, Planted, PlantedSplit, subject

CPU = torch.device("cpu")


def some_rows(items: int = 20, frames: int = 5, seed: int = 0) -> Rows:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (items * frames,), generator=random)
    x = torch.randn(items * frames, 4, generator=random) + 2 * F.one_hot(labels, 4)
    return Rows(x, torch.tensor([2, 5, 9])[labels], torch.arange(items).repeat_interleave(frames))


@pytest.mark.parametrize(
    ("name", "aligned", "whole", "pool"),
    [
        ("gim", (1e-4, 20, 1, 1e-8, "xavier", "as it is", "last"), (1e-3, 50, 64), "mean"),
        ("vgim", (1e-4, 20, 1, 1e-8, "xavier", "as it is", "last"), (1e-3, 50, 64), "mean"),
        ("cpc-audio", (2e-4, 10, 8, 2e-8, "default", "shuffled", "best"), (2e-4, 10, 8), "last"),
    ],
)
def test_constants_are_the_published_ones(
    name: str, aligned: tuple[object, ...], whole: tuple[object, ...], pool: str
) -> None:
    protocol = PROTOCOLS[name]
    assert (a := protocol.aligned) is not None
    assert (a.lr, a.epochs, a.batch, a.eps, a.init, a.order, a.keep) == aligned
    assert (w := protocol.whole) is not None
    assert (w.lr, w.epochs, w.batch) == whole
    assert (protocol.pool, protocol.depth) == (pool, "last")


def test_an_unknown_protocol_is_answered_with_the_closest() -> None:
    with pytest.raises(UsageError, match="--protocol gin: there is no such protocol") as caught:
        find_protocol("gin")
    assert caught.value.hint == "did you mean gim?"


def test_phones_are_learnt_an_utterance_a_step_in_the_order_of_the_files() -> None:
    rows = some_rows()
    training = AdamTraining(lr=1e-2, epochs=3, batch=1, init="xavier", order="as it is")
    (fitted,) = fit_adam(training, lambda epoch: [rows], seed=4, device=CPU)
    torch.manual_seed(derive_seed("probe", 4))
    linear = nn.Linear(4, 3)
    nn.init.xavier_normal_(linear.weight)
    optimizer = torch.optim.Adam(linear.parameters(), lr=1e-2)
    for _ in range(3):
        for item in range(20):
            own = rows.where(rows.items == item)
            optimizer.zero_grad()
            F.cross_entropy(linear(own.features), torch.tensor([[2, 5, 9].index(c) for c in own.labels])).backward()
            optimizer.step()
    expected = torch.tensor([2, 5, 9])[linear(rows.features).argmax(1)]
    assert torch.equal(fitted.predict(rows.features), expected)
    assert fitted.choice == {"epochs": 3}


def test_a_batch_holds_whole_items_drawn_anew_for_each_epoch() -> None:
    rows = some_rows(items=21)
    made = AdamProbe(AdamTraining(lr=1e-3, epochs=2, batch=8), rows, seed=0, device=CPU)
    first = made._batches(rows.items)
    assert [len(set(rows.items[batch].tolist())) for batch in first] == [8, 8, 5]
    assert sorted(torch.cat(first).tolist()) == list(range(105))
    assert all(len(batch) == 5 * len(set(rows.items[batch].tolist())) for batch in first)
    made.train_epoch(rows)
    second = made._batches(rows.items)
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_the_best_epoch_is_chosen_on_items_that_are_not_learnt_from() -> None:
    rows = some_rows(items=60)
    training = AdamTraining(lr=0.05, epochs=12, batch=8, keep="best")
    made = AdamProbe(training, rows, seed=0, device=CPU)
    scores = []
    for _ in range(12):
        made.train_epoch(rows)
        scores.append(made.best[0])
    fitted = made.finish()
    assert scores == sorted(scores)
    assert fitted.held_out == scores[-1]
    assert fitted.choice == {"epochs": float(1 + scores.index(scores[-1]))}
    last = AdamProbe(AdamTraining(lr=0.05, epochs=12, batch=8), rows, seed=0, device=CPU)
    assert last.finish().held_out is None


def test_layers_are_trained_side_by_side_and_apart() -> None:
    one, other = some_rows(seed=0), some_rows(seed=1)
    training = AdamTraining(lr=1e-2, epochs=4, batch=4)
    together = fit_adam(training, lambda epoch: [one, other], seed=0, device=CPU)
    (alone,) = fit_adam(training, lambda epoch: [other], seed=0, device=CPU)
    assert torch.equal(together[1].predict(other.features), alone.predict(other.features))


class Watched(Planted):
    """Remembers every item that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, list[tuple[int, int | None]]] = {"train": [], "test": [], "seen": []}

    def split(self, root: Path, name: str) -> PlantedSplit:
        taken = self.taken[name]

        class Watching(PlantedSplit):
            def __getitem__(self, key: tuple[int, int | None]) -> Item:
                taken.append(key)
                return super().__getitem__(key)

        return Watching(name, self.sizes[name], 4)


def test_gim_reads_items_from_a_new_crop_each_epoch_and_scores_every_test_item() -> None:
    data = Watched()
    found = probe(subject(dataset=data), ["pitch", "sounding"], ProbeOptions(protocol="gim"))
    crops = [key for key in data.taken["train"] if key[1] is not None]
    assert [index for index, _ in crops] == list(range(48)) * 50
    assert len(set(crops)) == len(crops)
    assert [index for index, seed in data.taken["test"] if seed is not None] == list(range(24))
    assert found["pitch"].scores[0].test_rows == 24
    assert [score.depth for score in found["pitch"].scores] == [5]
    assert found["sounding"].scores[0].train_rows > 48 * 14  # whole utterances


def test_vgim_reads_whole_items() -> None:
    data = Watched()
    found = probe(subject(dataset=data), ["pitch"], ProbeOptions(protocol="vgim", depth=0))
    assert data.taken["train"] == [(index, None) for index in range(48)]
    assert found["pitch"].scores[0].choice == {"epochs": 50}


def test_cpc_audio_reads_the_last_frame_and_keeps_the_best_epoch() -> None:
    found = probe(subject(), ["pitch"], ProbeOptions(protocol="cpc-audio", depth="all"))["pitch"]
    assert found.pool == "last"
    assert len(found.scores) == 6
    assert all(score.held_out is not None and 1 <= score.choice["epochs"] <= 10 for score in found.scores)


def test_barello_learns_from_a_tenth_of_the_last_frames_of_test_items() -> None:
    from sklearn.linear_model import LogisticRegression

    given = subject(dataset=(data := Watched()))
    data.sizes = {**data.sizes, "test": 60}
    found = probe(given, ["pitch"], ProbeOptions(protocol="barello", depth=0))["pitch"]
    assert data.taken["train"] == []
    assert (found.train_split, found.test_split) == ("test", "test")
    (score,) = found.scores
    assert (score.train_rows, score.test_rows) == (6, 54)
    source = FrozenEncoder(given.encoder, given.recipe.sampling, given.device, [0])
    (rows,) = extract(source, data.split(Path(), "test"), {"pitch": LABELS["pitch"]}, pool="last").rows["pitch"]
    generator = torch.Generator().manual_seed(derive_seed("within test", 0))
    order = torch.randperm(60, generator=generator)
    x, y = rows.features.numpy(), rows.labels.numpy()
    learnt, tested = sorted(order[:6].tolist()), sorted(order[6:].tolist())
    model = LogisticRegression().fit(x[learnt], y[learnt])
    assert score.accuracy == pytest.approx(model.score(x[tested], y[tested]))


def test_scikit_learn_stopping_short_is_told_and_one_class_is_no_crash() -> None:
    random = torch.Generator().manual_seed(0)
    hard = Rows(
        torch.randn(400, 50, generator=random) * torch.logspace(-3, 4, 50), torch.arange(400) % 7, torch.arange(400)
    )
    assert fit_sklearn(hard).notes == ("scikit-learn stopped short of the optimum, after its default of 100 steps",)
    assert fit_sklearn(some_rows()).notes == ()
    single = Rows(torch.randn(5, 3), torch.full((5,), 2), torch.arange(5))
    assert fit_sklearn(single).predict(torch.randn(3, 3)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_protocol_reads_aligned_labels_and_those_of_items(name: str) -> None:
    found = probe(subject(), ["sounding", "pitch"], ProbeOptions(protocol=name, depth=0))
    for result in found.values():
        assert result.protocol == name
        assert (f"protocol {name}: {PROTOCOLS[name].says}" in result.notes) == (name != "optimum")
        assert all(0 <= score.accuracy <= 1 and score.choice for score in result.scores)
    if name != "cpc-audio" and not name.startswith(
        "amdim"
    ):  # whose first hundred steps, of 2e-4 or less, do next to nothing
        assert found["sounding"].accuracy() > 0.6
