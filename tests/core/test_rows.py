"""Large sets: in a file, streamed, never in memory as a whole, and learnt from as well as small ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from infomax_cli.core import features, logistic, rows, scratch, table
from infomax_cli.core.api import Axis, Item, LabelSpec
from infomax_cli.core.classifiers import Classifier, Fit, fit
from infomax_cli.core.features import Extracted, Layer, extract
from infomax_cli.core.logistic import Logistic, Whitening, fit_logistic, fit_minibatches
from infomax_cli.core.probe import _measure
from infomax_cli.core.probe_rows import few
from infomax_cli.core.protocols import AdamTraining, fit_adam, fit_sklearn
from infomax_cli.core.rows import Rows
from infomax_cli.core.seeds import torch_generator
from infomax_cli.core.table import TableWriter

CPU = torch.device("cpu")
DIMS, CLASSES = 16, 6
LARGE = 2**17  # values that may be in memory, for these tests


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path))
    for module, name, value in [
        (table, "_BLOCK", 2**12), (table, "_PART", 2**13), (rows, "_PART", 2**13), (rows, "_CHUNK", 2**9),
        (rows, "_CHUNKS", 32), (features, "_TOGETHER", 2**12),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, value)


def frames(count: int, seed: int = 0) -> Rows:
    """Classes that overlap, some of them rare; a hundred frames an item."""
    fixed, random = torch.Generator().manual_seed(9), torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([8.0, 4, 2, 2, 1, 0.2]), count, True, generator=random)
    modes = 1.2 * torch.randn(CLASSES, DIMS, generator=fixed)
    mix = torch.randn(DIMS, DIMS, generator=fixed) * torch.logspace(0, -2, DIMS)
    x = (modes[labels] + torch.randn(count, DIMS, generator=random)).relu() @ mix
    return Rows(x, labels, torch.arange(count) // 100)


def filed(given: Rows) -> Rows:
    """The same in a file."""
    writer = TableWriter("depth 0")
    writer.to_file()
    for part in given.features.split(1000):
        writer.add(part)
    return Rows(writer.finish(), given.labels, given.items)


class Longest(TorchDispatchMode):
    """Remembers how many rows the longest matrix of fp32 had that any operation made."""

    rows = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.dim() == 2:
                self.rows = max(self.rows, len(tensor))
        return made


def accuracy(fitted: Fit, asked: Rows) -> float:
    return _measure(fitted, asked)["accuracy"]


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_shuffled_stream_brings_every_row_once_and_mixes_items() -> None:
    given = frames(5000)
    kept = filed(given)
    parts = list(kept.shuffled(torch_generator(0)))
    order = torch.cat([places for places, _ in parts])
    assert sorted(order.tolist()) == list(range(5000))
    assert torch.equal(torch.cat([x for _, x in parts]), kept.take(order))
    assert len(parts) > 4
    assert all(len(given.items[places[:50]].unique()) > 10 for places, _ in parts[:-1])
    again, other = (torch.cat([p for p, _ in kept.shuffled(torch_generator(seed))]) for seed in (0, 1))
    assert torch.equal(order, again)
    assert not torch.equal(order, other)


def test_few_rows_of_a_file_are_those_of_memory() -> None:
    given = frames(3000)
    one, other = few(given, 7, by_item=False, seed=(1,))[0], few(filed(given), 7, by_item=False, seed=(1,))[0]
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.items, other.items)
    torch.testing.assert_close(one.features, other.features, rtol=2**-11, atol=1e-5)


# --- extraction ------------------------------------------------------------------------------------------------------


class Frames:
    """Two layers of one frame for every 16 samples."""

    layers = (Layer("0", (Axis("time", 16, 8.0),)), Layer("1", (Axis("time", 16, 8.0),)))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        frames = x.unfold(-1, 16, 16)[:, 0].transpose(1, 2)
        return frames, 1e6 * frames


class Noise:
    """A hundred items of a hundred labels each."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        random = torch_generator("noise", key[0])
        labels = torch.randint(-1, 5, (100,), generator=random)
        return Item(torch.randn(1, 1600, generator=random), {"phone": labels}, str(key[0]))

    def item_labels(self, name: str) -> list[int]:
        raise NotImplementedError


def extracted(**options: Any) -> Extracted:
    return extract(Frames(), Noise(), {"phone": LabelSpec(5, hop=16, offset=8.0)}, **options)


def test_beyond_memory_features_are_the_same_from_a_file() -> None:
    held = extracted()
    with Longest() as longest:
        kept = extracted(memory=2**15)
    assert kept.thinned == 1
    for one, other in zip(held.rows["phone"], kept.rows["phone"], strict=True):
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.items, other.items)
    assert longest.rows < len(kept.rows["phone"][0]) / 10
    assert kept.rows["phone"][0].labels is kept.rows["phone"][1].labels


def test_files_are_thinned_to_what_the_disk_has_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extracted()
    total = sum(2 * layer.values for layer in whole.rows["phone"])
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=scratch.MARGIN + total))
    thin = extracted(memory=2**15)  # which takes half of it
    assert thin.thinned == 2
    for layer in thin.rows["phone"]:
        assert len(layer) == pytest.approx(len(whole.rows["phone"][0]) / 2, rel=0.05)
        assert set(layer.items.tolist()) == set(range(100))
    assert torch.equal(thin.rows["phone"][0].labels, thin.rows["phone"][1].labels)
    torch.testing.assert_close(
        1e6 * thin.rows["phone"][0].features, thin.rows["phone"][1].features, rtol=2**-9, atol=1.0
    )


def test_a_disk_that_others_fill_is_thinned_for_as_it_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    free = [10 * scratch.MARGIN] * 5 + [scratch.MARGIN // 2] + [10 * scratch.MARGIN] * 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free.pop(0)))
    assert extracted(memory=2**15).thinned == 2


# --- classifiers -----------------------------------------------------------------------------------------------------


def entropy(model: Logistic, x: Tensor, y: Tensor, penalty: Tensor) -> float:
    logits = x.double() @ model.weight.double().T + model.bias.double()
    return float(F.cross_entropy(logits, y) + 0.5 * (penalty * model.weight.square()).sum())


@pytest.mark.parametrize("l2", [1e-2, 1e-5])
def test_minibatches_end_at_the_optimum(l2: float, monkeypatch: pytest.MonkeyPatch) -> None:
    given, asked = frames(60_000), frames(20_000, seed=1)
    whiten = Whitening.fit(given.features[:2000])
    x, penalty = whiten(given.features), l2 * whiten.variances.rsqrt()
    optimum = fit_logistic(x, given.labels, CLASSES, penalty, tolerance=1e-6)
    start = fit_logistic(x[:2000], given.labels[:2000], CLASSES, penalty)
    white = Rows(x, given.labels, given.items)

    def fitted(seed: int) -> Logistic:
        order = torch_generator(seed)
        stream = lambda: ((part, given.labels[places]) for places, part in white.shuffled(order))  # noqa: E731
        return fit_minibatches(stream, len(white), x[:2000], penalty, start=start)

    found = fitted(0)
    best, began, ended = (entropy(model, x, given.labels, penalty) for model in (optimum, start, found))
    assert ended < best * 1.005 < began
    assert found.loss == pytest.approx(best, rel=0.03)  # of where it came by
    tested = whiten(asked.features)
    right = [float((model.predict(tested) == asked.labels).double().mean()) for model in (optimum, found)]
    assert right[1] == pytest.approx(right[0], abs=0.002)
    monkeypatch.setattr(logistic, "_STEPS", 0)
    assert torch.equal(fitted(0).weight, fitted(0).weight)
    assert not torch.equal(fitted(0).weight, fitted(1).weight)


@pytest.mark.parametrize("name", ["linear", "mlp", "knn"])
def test_large_sets_are_learnt_from_as_well_and_never_in_memory_as_a_whole(
    name: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, asked = frames(12_000), filed(frames(10_000, seed=1))
    kept = filed(given)
    monkeypatch.setattr(logistic, "_STEPS", 1000)
    with Longest() as longest:
        large = fit(name, kept, seed=3, device=CPU, large=LARGE)
        score = accuracy(large, asked)
    assert longest.rows <= LARGE // DIMS // 4  # of 12,000
    small = fit(name, given, seed=3, device=CPU)
    # neighbours are fewer
    assert score == pytest.approx(accuracy(small, asked), abs={"linear": 0.002, "mlp": 0.01, "knn": 0.03}[name])
    assert large.held_out == pytest.approx(score, abs=0.04)
    drawn = "2,048 of 12,000 rows, drawn by the seed"
    told = {
        "linear": (f"its strength is from {drawn}; all were learnt from in 1,032 minibatches",),
        "mlp": (),
        "knn": (f"neighbours are looked for among {drawn}",),
    }
    assert large.notes == told[name]


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_seed_gives_the_same_classifier_of_a_large_set(name: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "_STEPS", 0)
    kept = filed(frames(9_000))
    one, other = (fit(name, kept, seed=3, device=CPU, large=LARGE) for _ in range(2))
    assert one.choice == other.choice
    assert torch.equal(one.predict(kept.features), other.predict(kept.features))


@pytest.mark.parametrize("keep", ["last", "best"])
def test_published_training_reads_a_file_batch_by_batch(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = frames(12_000)
    training = AdamTraining(lr=1e-2, epochs=2, batch=4, keep=keep)

    def trained(learnt: Rows) -> Fit:
        return fit_adam(training, lambda epoch: [learnt], seed=0, device=CPU)[0]

    kept = filed(given)
    small = trained(Rows(kept.features, given.labels, given.items))
    with Longest() as longest:
        monkeypatch.setattr(Rows.reader, "__defaults__", (LARGE,))
        large = trained(kept)
    assert longest.rows <= 2**13 // DIMS
    assert torch.equal(large.predict(given.features), small.predict(given.features))
    assert large.held_out == small.held_out


def test_scikit_learn_learns_from_what_fits_and_says_so() -> None:
    kept = filed(frames(12_000))
    with Longest() as longest:
        fitted = fit_sklearn(kept, large=LARGE)
    assert longest.rows <= LARGE // DIMS
    assert "scikit-learn learnt from 6,000 of 12,000 rows: more do not fit in memory" in fitted.notes
    assert accuracy(fitted, kept) > 0.5


def test_rows_in_memory_are_not_copied() -> None:
    given = frames(100)
    assert given.features is given.kept
    assert given.where(torch.ones(100, dtype=torch.bool)) is given
    read: Callable[[Tensor], Tensor] = given.reader(CPU)
    assert torch.equal(read(torch.tensor([3, 1])), given.features[[3, 1]])
