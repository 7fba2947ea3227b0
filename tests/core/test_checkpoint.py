"""Checkpoints: whole at any moment, and nothing that could run code."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from infomax_cli.core.checkpoint import (
    load_checkpoint,
    load_encoder_weights,
    restore,
    save_checkpoint,
    save_encoder,
)
from infomax_cli.errors import CheckpointError

STATE: dict[str, Any] = {
    "step": 3,
    "encoder": {"a": torch.arange(50.0), "b": torch.arange(7)},
    "x": [1.0, {"y": (1, None)}],
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, STATE)
    return path


def test_what_is_saved_is_what_is_loaded(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert loaded.pop("format") == 1
    assert tiny.same(loaded, STATE)
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_every_truncation_is_told_and_none_is_loaded(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole), 97):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load_checkpoint(saved)


def test_damage_is_never_taken_for_a_checkpoint(saved: Path) -> None:
    """A flipped bit is told, or does not matter (some of a zip archive's bytes mean nothing)."""
    whole, place = saved.read_bytes(), random.Random(0)
    told = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[place.randrange(len(whole))] ^= 1 << place.randrange(8)
        saved.write_bytes(bytes(damaged))
        try:
            loaded = load_checkpoint(saved)
        except CheckpointError:
            told += 1
        else:
            loaded.pop("format")
            assert tiny.same(loaded, STATE)
    assert told > 100


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def hostile_files(mark: Path) -> Iterator[bytes]:
    yield pickle.dumps(Hostile(mark))
    modern, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"format": 1, "encoder": Hostile(mark)}, modern)
    torch.save({"format": 1, "encoder": Hostile(mark)}, legacy, _use_new_zipfile_serialization=False)
    yield modern.getvalue()
    yield legacy.getvalue()


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    mark, path = tmp_path / "was-run", tmp_path / "last.pt"
    for number, data in enumerate(hostile_files(mark)):
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        assert not mark.exists()
        if number == 1:
            assert "holds more than weights and numbers" in caught.value.message
            assert "never runs code" in (caught.value.hint or "")


def foreign_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return data.getvalue()


def torch_file(state: object) -> bytes:
    data = io.BytesIO()
    torch.save(state, data)
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "it is no zip archive"),
        (b"hello", "it is no zip archive"),
        (foreign_zip(), "cannot be read as a checkpoint"),
        (torch_file([1, 2]), "is not a checkpoint of infomax"),
        (torch_file({"state_dict": {}}), "is not a checkpoint of infomax"),
        (torch_file({"format": 99}), "was written by another version of infomax"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_a_line(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert told in caught.value.message
    assert str(path) in caught.value.message
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.hint


def test_a_missing_checkpoint_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "last.pt")
    (tmp_path / "last.pt").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read .*last\.pt: Is a directory"):
        load_checkpoint(tmp_path / "last.pt")


# --- a disk that is full ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """Files may grow to 4 KiB; beyond that a write fails, as on a full disk. Never around anything that pytest prints,
    whose own output may be a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_leaves_the_checkpoint_before_it(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.pt: File too large$") as caught, small_disk():
        save_checkpoint(saved, {"encoder": torch.zeros(100_000)})
    assert len(caught.value.message.splitlines()) == 1
    assert "what was saved before is whole" in (caught.value.hint or "")
    assert load_checkpoint(saved)["step"] == 3
    with pytest.raises(CheckpointError, match=r"cannot write .*encoder\.safetensors: File too large$"), small_disk():
        save_encoder(saved.parent / "encoder.safetensors", torch.nn.Linear(100, 100), {})
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


# --- giving weights back ---------------------------------------------------------------------------------------------


def test_restoring_names_what_differs_first() -> None:
    module = torch.nn.Linear(2, 3)
    weights = module.state_dict()
    cases = [
        ({"weight": weights["weight"]}, "has no bias: it comes from another encoder"),
        ({**weights, "extra": torch.zeros(1)}, "has extra, which this encoder lacks"),
        ({**weights, "bias": torch.zeros(4)}, r"bias is \(4,\), but this encoder's is \(3,\)"),
    ]
    for given, told in cases:
        with pytest.raises(CheckpointError, match=told) as caught:
            restore(module, given, Path("run/last.pt"))
        assert caught.value.hint


def test_the_encoder_s_weights_come_back_from_its_file(tmp_path: Path) -> None:
    module = torch.nn.BatchNorm1d(3)
    save_encoder(tmp_path / "e.safetensors", module, {"name": "x"})
    assert tiny.same(
        dict(sorted(load_encoder_weights(tmp_path / "e.safetensors").items())),
        dict(sorted(module.state_dict().items())),
    )
    (tmp_path / "e.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read as encoder weights"):
        load_encoder_weights(tmp_path / "e.safetensors")


def test_a_checkpoint_of_something_else_is_told_in_a_line(here: Path) -> None:
    """Whole, and written by infomax, but not what the recipe makes."""
    _, run = tiny.train(here, "train.steps=1")
    state = load_checkpoint(run.last)
    for change in (
        {"losses": {}}, {"steppers": {}}, {"meter": 5}, {"step": "x"}, {"encoder": 5}, {"encoder": {"a": 1}},
        {"recipe": []},
    ):  # fmt: skip
        save_checkpoint(run.last, {**state, **change})
        with pytest.raises(CheckpointError, match=r"last\.pt") as caught:
            tiny.trainer("train.steps=1").resume(run)
        assert len(caught.value.message.splitlines()) == 1
    del state["encoder"]
    save_checkpoint(run.last, state)
    with pytest.raises(CheckpointError, match="is not what this recipe makes"):
        tiny.trainer().start_from(run)
