"""A look at the features while they are being learned: a picture of the plane now and then, as the recipe asks."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from infomax_cli.core.build import Experiment
from infomax_cli.core.scatter import draw_planes, write_picture
from infomax_cli.core.subject import Subject
from infomax_cli.core.tsne import TsneOptions, chosen_label, heading, look
from infomax_cli.core.watcher import Nobody
from infomax_cli.errors import DataError, RecipeError, UsageError
from infomax_cli.recipe import SnapshotOptions
from infomax_cli.runs import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

_SPLITS = ("validation", "test", "train")  # the first that has items is shown


class Snapshots:
    """Pictures of an experiment's encoder, ``<run>/tsne/step-<step>.png`` and in TensorBoard.

    Raises `RecipeError` where the data has no such label, or the encoder no such depth.
    """

    def __init__(self, experiment: Experiment, device: torch.device, options: SnapshotOptions) -> None:
        self.experiment, self.device, self.every = experiment, device, options.every
        stages = len(experiment.encoder.stages)
        if options.depth is not None and not 0 <= options.depth < stages:
            raise RecipeError(f"train.tsne.depth {options.depth}: the encoder has depths 0 to {stages - 1}")
        self.depths = list(range(stages)) if options.depth is None else [options.depth]
        split = next(name for name in _SPLITS if experiment.data.sizes.get(name))
        try:
            label = chosen_label(experiment.data, options.color, "train.tsne.color")
        except UsageError as error:
            raise RecipeError(error.message, error.hint) from error
        self.options = TsneOptions(
            color=label, method=options.method, split=split, limit=options.limit, seed=experiment.recipe.train.seed
        )

    def take(self, run: Run, step: int, board: SummaryWriter) -> str | None:
        """Draw one; returns why there is none, where the data holds too little to be looked at. The encoder that is
        being trained is left as it is."""
        experiment = self.experiment
        frozen = copy.deepcopy(experiment.encoder)
        subject = Subject(
            experiment.recipe, experiment.root, experiment.dataset, experiment.data, frozen, self.device, trained=step
        )
        try:
            seen = look(subject, self.depths, self.options, Nobody(), baseline=False)
        except DataError as error:
            return f"no picture of step {step}: {error.message}"
        titles = [f"depth {apart.depth}, silhouette {apart.silhouette:.2f}" for apart in seen.apart]
        figure = draw_planes(seen.cloud, seen.planes, titles, f"{heading(run, seen)}, step {step:,}")
        write_picture(figure, run.path / "tsne" / f"step-{step:08d}.png")
        figure.set_dpi(80)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]  # of the agg canvas
        board.add_image(f"tsne/{seen.cloud.label}", pixels.copy(), step, dataformats="HWC")
        for apart in seen.apart:
            for name, value in dataclasses.asdict(apart).items():
                if name in ("silhouette", "purity"):
                    board.add_scalar(f"tsne/{seen.cloud.label}/{name}/{apart.depth}", value, step)
        return None
