"""Probes of images: conv, fc and Y apart, by DIM's, AMDIM's and GIM's protocols; the encoder stays frozen."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tiny
from infomax_cli.core import probe as probe_module
from infomax_cli.core.api import UsageError
from infomax_cli.core.baselines import Pixels
from infomax_cli.core.blocks import module_of
from infomax_cli.core.features import pool_items
from infomax_cli.core.probe import probe
from infomax_cli.core.probe_options import ProbeOptions
from infomax_cli.core.probe_result import ProbeResult
from infomax_cli.core.protocols import PROTOCOLS, AdamProbe, AdamTraining
from infomax_cli.core.rows import Rows
from pictured import Pictured, SmallConvnet, subject

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.plant(monkeypatch, pictured=Pictured, small_convnet=SmallConvnet)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocols of five epochs."""
    for name, protocol in list(PROTOCOLS.items()):
        if protocol.whole is not None:
            whole = dataclasses.replace(protocol.whole, epochs=5)
            monkeypatch.setitem(PROTOCOLS, name, dataclasses.replace(protocol, whole=whole))  # type: ignore[arg-type]


def probed(data: Pictured | None = None, **options: object) -> ProbeResult:
    return probe(subject(data), ["class"], ProbeOptions(**options))["class"]  # type: ignore[arg-type]


# --- depths, grids, baselines ----------------------------------------------------------------------------------------


def test_what_can_be_seen_is_found() -> None:
    assert probed(depth=0).accuracy() > 0.9


def test_grids_tell_depths_apart_and_baselines_stand_beside_them() -> None:
    found = probed(classifier="knn", baselines=("random", "raw"))
    trained, untrained, (raw,) = found.of("trained"), found.of("random"), found.of("raw")
    assert [score.grid for score in trained] == [(7, 7), (5, 5), (1, 1), (1, 1)]
    assert [score.grid for score in untrained] == [score.grid for score in trained]
    assert [score.hop for score in trained] == [2, 2, 2, 2]
    assert [score.dims for score in trained] == [6, 6, 12, 4]
    assert (raw.layer, raw.grid, raw.dims) == ("pixels", None, 3 * 16 * 16)


def test_cepstra_are_only_for_sound() -> None:
    with pytest.raises(UsageError, match="--baseline mfcc: the data is not sound"):
        probed(baselines=("mfcc",))


def test_a_flattened_map_keeps_its_positions() -> None:
    found = probed(pool="flatten", classifier="knn")
    assert [score.dims for score in found.of("trained")] == [6 * 49, 6 * 25, 12, 4]
    assert found.pool == "flatten"
    values = torch.randn(2, 3, 4, 5)
    rows = pool_items(values, Pixels.layers[0], "flatten")
    assert torch.equal(rows[1, 0], values[1].reshape(-1))


def test_flattening_what_is_too_wide_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MOST_DIMENSIONS", 200)
    with pytest.raises(UsageError, match="--pool flatten: depth 0 has 294 values, more than the 200") as caught:
        probed(pool="flatten")
    assert "--protocol dim" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="--baseline raw: an image has 768 values, more than the 200"):
        probed(baselines=("raw",))
    assert probed(pool="flatten", depth=1, classifier="knn").scores[0].dims == 150


def test_flattening_more_than_the_disk_holds_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MEMORY", 1000)
    monkeypatch.setattr(probe_module, "scratch_room", lambda: 2000)
    with pytest.raises(UsageError, match="--pool flatten: the features would take"):
        probed(pool="flatten")


# --- protocols -------------------------------------------------------------------------------------------------------


def test_constants_are_the_published_ones() -> None:
    dim, amdim, gim = (PROTOCOLS[name].whole for name in ("dim", "amdim", "gim-vision"))
    assert dim is not None
    assert amdim is not None
    assert gim is not None
    assert (dim.lr, dim.batch, dim.betas, dim.at, dim.factor) == (1e-4, 64, (0.5, 0.999), (50, 100), 0.1)
    assert (amdim.lr, amdim.batch, amdim.betas, amdim.weight_decay) == (2e-4, 200, (0.8, 0.999), 1e-5)
    assert (amdim.epochs, amdim.at, amdim.factor, amdim.warmup) == (120, (80, 110), 0.2, 500)
    assert (amdim.clip, amdim.penalty) == (10.0, 1e-3)
    assert (gim.lr, gim.epochs, gim.batch) == (1e-3, 300, 32)
    assert [PROTOCOLS[name].pool for name in ("dim", "amdim", "gim-vision")] == ["flatten", "mean", "mean"]


def test_the_rate_rises_over_the_warm_up_and_falls_at_the_milestones() -> None:
    training = AdamTraining(lr=1.0, epochs=9, batch=1, at=(3, 5), factor=0.5, warmup=4)
    assert [training.rate(0, step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [training.rate(epoch, 100) for epoch in (2, 3, 4, 5, 8)] == [1.0, 0.5, 0.5, 0.25, 0.25]


def test_amdims_training_is_what_torch_makes_of_its_constants() -> None:
    """Warm-up, milestones, decay, clip and penalty, beside a loop with torch's own schedule."""
    rows = Rows(torch.randn(30, 5), torch.arange(30) % 3, torch.arange(30))
    training = AdamTraining(
        lr=0.05, epochs=4, batch=30, betas=(0.8, 0.999), weight_decay=0.1, at=(2,), factor=0.2, clip=2.0, penalty=0.1
    )
    made = AdamProbe(training, rows, seed=0, device=CPU)
    linear = nn.Linear(5, 3)
    linear.load_state_dict(made.head.state_dict())
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.05, betas=(0.8, 0.999), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], 0.2)
    for _ in range(4):
        made.train_epoch(rows)
        logits = linear(rows.features)
        optimizer.zero_grad()
        (F.cross_entropy(2 * torch.tanh(logits / 2), rows.labels) + 0.1 * logits.square().mean()).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(made.head.weight, linear.weight)


@pytest.mark.usefixtures("brief")
def test_dim_reads_conv_fc_and_y_apart_with_its_head() -> None:
    found = probed(protocol="dim")
    assert (found.classifier, found.pool) == ("mlp", "flatten")
    assert [(score.depth, score.grid, score.dims) for score in found.scores] == [
        (1, (5, 5), 150),
        (2, (1, 1), 12),
        (3, (1, 1), 4),
    ]
    assert probed(protocol="dim", classifier="linear", depth=2).classifier == "linear"


@pytest.mark.parametrize("classifier", ["linear", "mlp"])
@pytest.mark.usefixtures("brief")
def test_amdim_reads_the_last_vector_with_either_head(classifier: str) -> None:
    found = probed(protocol="amdim", classifier=classifier)
    assert [(score.depth, score.dims) for score in found.scores] == [(3, 4)]
    assert found.classifier == classifier
    assert found.scores[0].choice == {"epochs": 5}


def test_gim_reads_the_mean_of_the_last_map() -> None:
    found = probed(protocol="gim-vision", depth=1)
    assert found.pool == "mean"
    assert found.accuracy() > 0.4


def test_a_head_that_a_protocol_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="--protocol gim-vision is for the linear classifier"):
        probed(protocol="gim-vision", classifier="mlp")


@pytest.mark.parametrize("protocol", ["optimum", "dim", "amdim"])
@pytest.mark.usefixtures("brief")
def test_nothing_of_the_encoder_changes_its_batch_norm_included(protocol: str) -> None:
    given = subject()
    encoder = module_of(given.encoder).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert any("running_mean" in name for name in before)
    probe(given, ["class"], ProbeOptions(protocol=protocol, neighbours=2, depth=3))
    after = encoder.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert all(not p.requires_grad and p.grad is None for p in encoder.parameters())


def test_unlabelled_images_are_neither_learnt_from_nor_counted() -> None:
    found = probed(Pictured(unlabelled=2, classes=3), depth=0, classifier="knn")
    assert found.scores[0].train_rows == 20


def test_the_knn_probe_reads_the_vector() -> None:
    found = probed(classifier="knn", depth=2)
    assert found.accuracy() > 0.5
    assert found.scores[0].choice.keys() == {"k"}


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_borrowed_dataset_has_files_of_its_own() -> None:
    plain = probed(depth=0)
    borrowed = dataclasses.replace(plain, data="pictured")
    assert borrowed.stem == f"{plain.stem.partition('-depth')[0]}-on-pictured-depth0"
