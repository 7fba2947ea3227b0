"""A run with Gaussians in it, for those who look at latents."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from infomax_cli.core.subject import Subject, load_subject
from infomax_cli.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    """Six blocks, of which two end in Gaussians, after three steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        changes = ("train.steps=3", "encoder.variational=[1,4]", "encoder.norm=batch")
        return tiny.train(tmp_path_factory.mktemp("latents"), *changes)[1]


@pytest.fixture
def subject(run: Run, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setenv("INFOMAX_CACHE", str(shared_cache))
    return load_subject(run, tiny.CPU)
