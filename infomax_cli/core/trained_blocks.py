"""Which blocks of an experiment are run, and which of those are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infomax_cli.core.blocks import Block
from infomax_cli.core.build import Experiment
from infomax_cli.recipe import TrainOptions


def running_blocks(blocks: Sequence[Block]) -> list[Block]:
    """The blocks up to the last one that any loss looks at."""
    last = max(block.index for block in blocks if len(block.losses))
    return list(blocks[: last + 1])


def is_trained(block: Block, options: TrainOptions) -> bool:
    return len(block.losses) > 0 and options.block in (None, block.index)


def describe_blocks_trained(experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each block: its stages, what it puts out, who judges it and how many parameters that trains."""
    rows = []
    for block in experiment.blocks:
        output = block.spec.output
        trained = is_trained(block, experiment.recipe.train)
        parameters = block.monitor_parameters() if trained else []
        parameters += block.trained_parameters() if trained and block.is_trained else []
        rows.append(
            {
                "block": block.index,
                "stages": ", ".join(map(str, block.spec.stages)),
                "output": " x ".join(map(str, (output.channels, *output.grid))),
                "hop": ", ".join(str(axis.hop) for axis in output.axes),
                "losses": ", ".join(block.losses) if trained else "not trained",
                "parameters": sum(parameter.numel() for parameter in parameters),
            }
        )
    return rows
