"""Compiled, a run learns the same; and whatever the compiler stumbles over, the run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from infomax_cli.core import compiling
from infomax_cli.core.compiling import CompiledStage
from infomax_cli.runs import new_run

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")  # a compiler's own, which would count as its failure
def test_compiled_stages_learn_what_plain_ones_do(tmp_path: Path) -> None:
    options = ("train.steps=3", "cut=[0]", "encoder.norm=channel", "encoder.cell=none")
    plain, one = tiny.train(tmp_path, *options)
    compiled, other = tiny.train(tmp_path, *options, "train.compile=true")
    assert all(runner._compiled is not None for block in compiled.blocks for runner in block._runners)
    for name, value in tiny.encoder_weights(plain).items():
        torch.testing.assert_close(value, tiny.encoder_weights(compiled)[name], rtol=1e-3, atol=1e-5)
    first, second = tiny.lines(one)[0], tiny.lines(other)[0]
    assert first == pytest.approx(second, rel=1e-4)


def test_a_compiler_that_fails_never_breaks_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(stage: nn.Module, **_: Any) -> Any:
        def run(x: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler was found\nand more")

        return run

    plain, _ = tiny.train(tmp_path, "train.steps=2")
    monkeypatch.setattr(torch, "compile", compiler)
    made = tiny.trainer("train.steps=2", "train.compile=true")
    display = tiny.Silent()
    made.train(new_run(tmp_path, "tiny"), display)
    assert tiny.same(tiny.encoder_weights(plain), tiny.encoder_weights(made))
    assert len(display.notes) == 6  # once a stage
    assert display.notes[0].startswith("stage 0 goes on uncompiled: ")
    assert "no C++ compiler was found" in display.notes[0]


def test_what_is_wrong_with_the_stage_itself_is_not_blamed_on_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.torch, "compile", lambda stage, **_: stage)
    told: list[str] = []
    stage = CompiledStage(nn.Linear(3, 2), "stage 4", told.append)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        stage(torch.zeros(1, 5))
    assert not told
