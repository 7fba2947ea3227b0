"""All that a plugin author imports: the nouns of infomax, and a small toolbox.

Tensors are channel-first, ``(B, C, *grid)``: speech has grid ``(T,)``, images ``(H, W)``, spectrograms ``(F, T)``.
An **encoder** is a row of stages, a **loss** judges what a block of stages made of one or more views of a batch, a
**dataset** hands out raw items, and **features** are what a block made of one view. Encoders and losses are
``nn.Module``s; the protocols below say what else they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from infomax_cli.core.audio import AudioInfo, audio_info, read_audio
from infomax_cli.core.files import ArrayCache, IndexCache, cache_root, write_atomically, write_text
from infomax_cli.core.finding import Found, find_files, paths_of
from infomax_cli.core.heads import Head, make_head, squash_logits
from infomax_cli.core.image_files import IMAGE_SUFFIXES, read_image
from infomax_cli.core.images import fit_image, grey_image, scale_image
from infomax_cli.core.seeds import derive_seed, numpy_generator, order_by_seed, torch_generator
from infomax_cli.errors import CorruptItem, DataError, DoesNotFit, InfomaxError, PluginError, UsageError
from infomax_cli.fetching.catalogue import CATALOGUE, RemoteFile, Subset
from infomax_cli.fetching.obtain import obtain

__all__ = [
    # the nouns
    "Encoder", "Resumable", "Loss", "Dataset", "Split", "Features", "Gaussian", "LossOutput", "Item", "Batch",
    # what is known before any data is read
    "Axis", "MapSpec", "BlockSpec", "LabelSpec", "DataSpec", "SplitFacts",
    # toolbox
    "stop_gradient", "pool_to_labels",
    "AudioInfo", "audio_info", "read_audio",
    "IMAGE_SUFFIXES", "read_image", "fit_image", "grey_image", "scale_image",
    "Found", "find_files", "paths_of",
    "Head", "make_head", "squash_logits",
    "ArrayCache", "IndexCache", "cache_root", "write_atomically", "write_text",
    "RemoteFile", "Subset", "obtain", "CATALOGUE",
    "derive_seed", "order_by_seed", "numpy_generator", "torch_generator",
    "InfomaxError", "UsageError", "DataError", "CorruptItem", "DoesNotFit", "PluginError",
]  # fmt: skip


# --- what is known before any data is read ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """Where the frames of a map lie along one axis of the raw input, in the input's samples (or pixels).

    Frame ``t`` is centred at ``centre + hop * t`` and sees ``field`` samples about that centre. A causal context sees
    the past as well; its axis is that of the frames it reads.
    """

    name: str = "time"
    hop: int = 1
    centre: float = 0.0
    field: int = 1

    def convolve(self, kernel: int, stride: int = 1, padding: int = 0) -> Axis:
        """The axis after a convolution or a pool with this kernel, stride and padding (on the left)."""
        return Axis(
            name=self.name,
            hop=self.hop * stride,
            centre=self.centre + self.hop * ((kernel - 1) / 2 - padding),
            field=self.field + self.hop * (kernel - 1),
        )


@dataclass(frozen=True)
class MapSpec:
    """A map ``(B, channels, *grid)`` and where each of its axes lies in the raw input."""

    channels: int
    grid: tuple[int, ...]
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class LabelSpec:
    """A label of the data: `classes` values ``0 .. classes - 1``, and -1 where it is unknown.

    Without `hop` there is one value an item (speaker, class). With it the label is aligned to the time axis: value
    ``i`` is centred at sample ``offset + hop * i`` of the item's input.
    """

    classes: int
    hop: int | None = None
    offset: float = 0.0
    names: tuple[str, ...] = ()

    @property
    def aligned(self) -> bool:
        return self.hop is not None


@dataclass(frozen=True)
class DataSpec:
    """What a dataset holds, known without decoding anything.

    `grid` is the size of a training item (the crop); `axes` names its axes, `rate` is in samples a second (None for
    images), `sizes` counts the items of each split.
    """

    channels: int
    grid: tuple[int, ...]
    axes: tuple[str, ...]
    rate: int | None
    labels: Mapping[str, LabelSpec]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class SplitFacts:
    """What a split can tell of itself without decoding anything; `Split` says how.

    `lengths` are the samples of each item as a whole, at the data's rate. `rates` counts the files of each rate that
    they are stored at. `counts` says of aligned labels how often each class occurs.
    """

    lengths: Sequence[int] = ()
    rates: Mapping[int, int] = field(default_factory=dict)
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockSpec:
    """What a loss knows of its block when it is built; one dry pass of the encoder finds it.

    `maps` holds the block's input and then one readout per stage, as `Features.maps` does. `target` and `context` are
    indices into it; `context` is None where the block has no context stage. `posteriors` lists the maps that come from
    a Gaussian.
    """

    index: int
    stages: tuple[int, ...]
    maps: tuple[MapSpec, ...]
    target: int
    context: int | None
    posteriors: tuple[int, ...]
    views: int
    data: DataSpec

    @property
    def output(self) -> MapSpec:
        """The block's last map: its context where it ends in one."""
        return self.maps[-1]


# --- what flows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian per position: `mean` and `logvar`, both ``(B, C, *grid)``. A variational stage returns it."""

    mean: Tensor
    logvar: Tensor

    def sample(self) -> Tensor:
        """One reparameterised draw, ``(B, C, *grid)``."""
        return self.mean + torch.exp(0.5 * self.logvar) * torch.randn_like(self.mean)

    def kl(self) -> Tensor:
        """KL(N(mean, var) || N(0, 1)) per element, ``(B, C, *grid)``, in nats (Kingma & Welling 2014, appendix B)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)


@dataclass(frozen=True)
class Features:
    """What one block made of one view.

    `maps`: the block's input, then one readout per stage. `target`: the last map, or the last before the context stage.
    `context`: the readout of the context stage, a second draw of the target where draws are independent, else None.
    `posteriors`: the Gaussians met, in order.
    """

    maps: tuple[Tensor, ...]
    target: Tensor
    context: Tensor | None = None
    posteriors: tuple[Gaussian, ...] = ()

    @property
    def output(self) -> Tensor:
        """The block's last map."""
        return self.maps[-1]


@dataclass(frozen=True)
class Item:
    """A raw item: `input` ``(C, *grid)`` in float32 (audio in [-1, 1]); `labels` are ints, or aligned 1-D tensors."""

    input: Tensor
    labels: Mapping[str, int | Tensor]
    id: str


@dataclass(frozen=True)
class Batch:
    """Items made ready: one ``(B, C, *grid)`` tensor a view; labels ``(B,)``, or aligned ``(B, L)``, -1 for unknown.

    `labelled` names the labels of which any value is known, where that was looked up before they left the CPU.
    """

    views: tuple[Tensor, ...]
    labels: Mapping[str, Tensor]
    ids: tuple[str, ...]
    labelled: frozenset[str] | None = None

    def knows(self, label: str) -> bool:
        """Whether any value of a label is known; no GPU is waited for where a loader made the batch."""
        if self.labelled is None:
            return bool((self.labels[label] >= 0).any())
        return label in self.labelled

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        return Batch(
            views=tuple(view.to(device, non_blocking=non_blocking) for view in self.views),
            labels={name: label.to(device, non_blocking=non_blocking) for name, label in self.labels.items()},
            ids=self.ids,
            labelled=self.labelled,
        )

    def pin_memory(self) -> Batch:
        """In memory that a GPU copies from while others compute; a loader calls it."""
        labels = {name: label.pin_memory() for name, label in self.labels.items()}
        return Batch(tuple(view.pin_memory() for view in self.views), labels, self.ids, self.labelled)


@dataclass(frozen=True)
class LossOutput:
    """`terms` are scalars, summed and minimised. `watched` are only reported: scalars (accuracy, a bound), or vectors
    ``(D,)`` with a value for each unit, of which TensorBoard shows a histogram."""

    terms: Mapping[str, Tensor]
    watched: Mapping[str, Tensor] = field(default_factory=dict)


# --- the three plugin kinds ------------------------------------------------------------------------------------------


@runtime_checkable
class Encoder(Protocol):
    """An ``nn.Module`` that is a row of stages. Constructed with the recipe's keywords.

    A stage maps a tensor to a tensor or to a `Gaussian`; one with ``is_context = True`` is an autoregressor.
    """

    stages: nn.ModuleList

    def prepare(self, x: Tensor) -> Tensor:
        """Raw input ``(B, C, *grid)`` to the first stage's input: normalisation, spectrogram, patches."""
        ...

    def readout(self, y: Tensor, stage: int) -> Tensor:
        """What losses and probes see of the output of `stage` (-1: of the prepared input), ``(B, C, *grid)``."""
        ...

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        """The axes of ``readout(y, stage)``."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """What a context stage that reads forward in time may be, so that sound of any length can be encoded in pieces."""

    def resume(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The stage's output for the next piece `x` of its input, and the state to go on from; None at the start."""
        ...


@runtime_checkable
class Loss(Protocol):
    """An ``nn.Module`` built as ``Name(spec: BlockSpec, **options)``; it owns its predictors and critics.

    The constructor raises `DoesNotFit` when the block lacks what the loss needs. A loss with ``monitor = True`` only
    watches: it is shown features without gradient, and what it minimises is left out of the block's total.
    """

    def __call__(self, views: Sequence[Features], batch: Batch) -> LossOutput: ...


class Split(Protocol):
    """One split of a dataset: a map-style torch dataset of raw items.

    ``split[index, seed]`` draws what is random (the crop) from `seed`; ``split[index, None]`` is the whole item, as
    evaluation sees it; it may raise `CorruptItem`, and is left out then.

    An optional method ``facts() -> SplitFacts`` says what `infomax data` tells of it beyond items and their labels.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int | None]) -> Item: ...

    def item_labels(self, name: str) -> Sequence[int]:
        """The value of a whole-item label for every item, in order, without decoding anything."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """Constructed with the recipe's keywords; reads nothing before it is asked to.

    Its splits are named in ``describe(root).sizes``: `train`, and where there are such `validation` and `test`. A label
    that is not to be probed from `train` to `test` (speakers, where those of the test split are others) is named in an
    optional attribute ``probe_splits``, as ``{label: (split to fit on, split to score on)}``.

    What it consists of may be told in an optional attribute ``downloads``, as ``{name: Subset}``: then `infomax
    download` fetches, checks and mends it as it does our own, and `download` need only call `obtain`.

    What it found and cannot use, an optional method ``left_out(root) -> {what: why}`` names. Where it lies, if not at
    the root itself, ``found_in(root)`` tells: the folder or file, or None for data that lies in none.
    """

    def download(self, root: Path) -> None:
        """Put the data under `root`, or raise `DataError` saying how to get it."""
        ...

    def describe(self, root: Path) -> DataSpec:
        """What is there: labels, class counts, sizes of the splits. Raises `DataError` when it is not."""
        ...

    def split(self, root: Path, name: str) -> Split:
        """A split by one of the names in ``describe(root).sizes``."""
        ...


# --- toolbox ---------------------------------------------------------------------------------------------------------


def stop_gradient(value: Any) -> Any:
    """Tensors, Gaussians and Features as they are, but with nothing flowing back through them."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Gaussian):
        return Gaussian(stop_gradient(value.mean), stop_gradient(value.logvar))
    if isinstance(value, Features):
        return Features(
            maps=stop_gradient(value.maps),
            target=stop_gradient(value.target),
            context=stop_gradient(value.context),
            posteriors=stop_gradient(value.posteriors),
        )
    if isinstance(value, tuple):
        return tuple(stop_gradient(part) for part in value)
    return value


def pool_to_labels(frames: Tensor, axis: Axis, label: LabelSpec, count: int) -> Tensor:
    """Bring a map ``(B, C, T)`` to the grid of an aligned label: ``(B, C, count)``, by geometry.

    Label ``i`` gets the mean of the frames centred in its cell, ``hop`` samples wide about ``offset + hop * i``, or the
    nearest frame where none is (frames coarser than labels).
    """
    if label.hop is None:
        raise ValueError("pool_to_labels needs an aligned label")
    length = frames.shape[-1]
    edges = label.offset + label.hop * (torch.arange(count + 1, dtype=torch.float64) - 0.5)
    # first frame whose centre is at or after each edge
    first = torch.ceil((edges - axis.centre) / axis.hop).long().clamp(0, length)
    low, high = first[:-1], first[1:]
    nearest = torch.round((edges[:-1] + 0.5 * label.hop - axis.centre) / axis.hop).long().clamp(0, length - 1)
    empty = high <= low
    low, high = torch.where(empty, nearest, low), torch.where(empty, nearest + 1, high)
    widths = high - low
    # the frames of all cells, one run of indices after the other
    run = torch.arange(int(widths.sum())) - (widths.cumsum(0) - widths).repeat_interleave(widths)
    index = (run + low.repeat_interleave(widths)).to(frames.device)
    picked = frames.index_select(-1, index)  # indexing would sum its gradient in any order
    if len(index) == count:
        return picked
    cell = torch.arange(count).repeat_interleave(widths).to(frames.device)
    pooled = frames.new_zeros(*frames.shape[:-1], count).index_add_(-1, cell, picked)
    return pooled / widths.to(frames)
