"""Batches from a split, by a loader whose workers leave errors and stopping to their parent."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from infomax_cli.core.api import Batch, InfomaxError
from infomax_cli.core.device import default_workers
from infomax_cli.core.stopping import leave_stopping_to_the_parent
from infomax_cli.core.views import ViewedItem, collate


def load_batches(
    split: TorchDataset[ViewedItem | InfomaxError] | TorchDataset[ViewedItem],
    batches: Any,
    workers: int | None,
    device: torch.device,
) -> Generator[Batch, None, None]:
    """The `batches` of a split, read by so many `workers` (None: as many as do the machine good); an error that an item
    is handed over as is raised."""
    loader: DataLoader[Any] = DataLoader(
        split,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=default_workers() if workers is None else workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_stopping_to_the_parent,
    )
    for batch in loader:
        if isinstance(batch, InfomaxError):
            raise batch
        yield batch
