"""A batch of one item, tried before anything is written: some losses and norms need more to work on."""

from __future__ import annotations

import copy

import torch

from infomax_cli.core.api import InfomaxError, Split, derive_seed
from infomax_cli.core.blocks import prepare
from infomax_cli.core.build import Experiment
from infomax_cli.core.device import autocast
from infomax_cli.core.trained_blocks import is_trained, running_blocks
from infomax_cli.core.views import ViewedSplit, collate
from infomax_cli.errors import RecipeError
from infomax_cli.recipe import TrainOptions


def rehearse(experiment: Experiment, split: Split, device: torch.device) -> None:
    """Run every block as in training on the first item alone; on copies, so that nothing of it stays.

    Raises `RecipeError` where a block cannot learn from a single item. An item that cannot be read is for training to
    tell.
    """
    options = experiment.recipe.train
    read = collate([ViewedSplit(split, experiment.views)[0, derive_seed(options.seed, "rehearsal")]])
    if isinstance(read, InfomaxError):
        return
    batch = read.to(device)
    encoder, blocks = copy.deepcopy((experiment.encoder, experiment.blocks))  # at once: blocks borrow of the encoder
    try:
        with torch.random.fork_rng(devices=[]), autocast(device, options.amp):
            inputs = prepare(encoder, batch.views)
            for block in running_blocks(blocks):
                block.train(block.is_trained)
                block.losses.train()
                inputs = block(inputs, batch).outputs if is_trained(block, options) else block.advance(inputs)
    except (InfomaxError, ValueError) as error:  # ValueError: torch's norms
        reason = error.message if isinstance(error, InfomaxError) else str(error).partition("\n")[0]
        raise RecipeError(f"one item is too small a batch: {reason}", _remedy(options)) from error


def _remedy(options: TrainOptions) -> str:
    if options.batch == 1:
        return "take a train.batch of at least 2"
    if options.batches_of is not None:
        return f"some {options.batches_of} has a single item, and so its batches: leave out train.batches_of"
    return "take data with more items to train on"
