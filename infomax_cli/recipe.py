"""Recipes: raw sections in, a checked `Recipe` out. Knows no plugin and no torch.

The sections of fixed form (`train`, `views`, `sampling`) are dataclasses here. The sections that name a plugin stay
mappings until `binding.bind` holds their keys against the plugin's constructor. How recipes are written is `dialect`'s
business, how the command line changes them that of `overrides`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from infomax_cli.binding import bind, check_value
from infomax_cli.dialect import dump_yaml, parse_yaml
from infomax_cli.errors import RecipeError
from infomax_cli.wording import suggest

Section = TypeVar("Section")
Cut = Literal["none", "each"] | list[int]
Augment = str | dict[str, Any]


# --- the sections of fixed form --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Milestones:
    """The learning rate is multiplied by `factor` at each of the epochs `at`."""

    at: list[int]
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"train.schedule.factor must be above 0, not {self.factor}")


@dataclass(frozen=True, kw_only=True)
class SnapshotOptions:
    """A picture of the features in the plane `every` so many steps (see `infomax tsne`): up to `limit` points, coloured
    by the label `color` (None for the only one), at one `depth` (None for all)."""

    every: int
    color: str | None = None
    depth: int | None = None
    method: Literal["tsne", "umap", "pca"] = "tsne"
    limit: int = 500

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"train.tsne.every must be at least 1, not {self.every}")
        if self.limit < 3:
            raise ValueError(f"train.tsne.limit must be at least 3, not {self.limit}")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How long, how fast and how. One of `epochs` and `steps` says when to stop; everything `_every` counts steps.

    `batches_of` names a label (speaker): each batch is then drawn from items of one value. `init` is a run whose
    encoder weights to start from. `block` trains that block alone: those below are frozen, those above left out.
    `crops` draws so many crops of each item once and for all, in place of a new one each epoch; with `cache` what the
    frozen blocks make of them is computed once, and read from disk. `compile` has torch.compile make each block faster.
    `workers` None means one for each core but the first, four at most; `keep` is how many older checkpoints stay;
    `tsne` asks for pictures while it trains.
    """

    epochs: int | None = None
    steps: int | None = None
    batch: int = 8
    accumulate: int = 1
    lr: float = 2e-4
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] | Milestones = "constant"
    warmup: int = 0
    clip: float | None = None
    amp: Literal["none", "bf16", "fp16"] = "none"
    seed: int = 0
    workers: int | None = None
    batches_of: str | None = None
    init: str | None = None
    block: int | None = None
    crops: int | None = None
    cache: bool = False
    compile: bool = False
    log_every: int = 20
    save_every: int = 500
    validate_every: int | None = None
    keep: int = 0
    tsne: SnapshotOptions | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either train.epochs or train.steps")
        for name in ("epochs", "steps", "batch", "accumulate", "crops", "log_every", "save_every", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"train.{name} must be at least 1, not {value}")
        for name in ("warmup", "keep", "workers", "block", "weight_decay", "momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"train.{name} must be at least 0, not {value}")
        for name in ("lr", "eps", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"train.{name} must be above 0, not {value}")
        if self.cache and not (self.block and self.crops):
            raise ValueError(
                "train.cache keeps what frozen blocks make of a fixed number of crops: give --train-block (1 or above) "
                "and train.crops with it"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas takes two numbers of at least 0 and below 1, not {self.betas}")


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How many views are made of an item, by which augmentations; those in `shared` are drawn once for all views.

    An augmentation is a name, or a mapping of its `name` and its options; the name may be that of a published set.
    """

    count: int = 1
    augment: Augment | list[Augment] = field(default_factory=list)
    shared: Augment | list[Augment] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"views.count must be at least 1, not {self.count}")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How Gaussians become tensors. Training draws once for context and target, or independently, as V-GIM published;
    evaluation takes the mean, or a draw."""

    draws: Literal["shared", "independent"] = "shared"
    eval: Literal["mean", "sample"] = "mean"


@dataclass(frozen=True)
class LossEntry:
    """One loss: the plugin's `name`, its `weight`, the `blocks` it is meant for (None: all that it fits)."""

    name: str
    options: Mapping[str, Any]
    weight: float = 1.0
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PluginSection:
    """A section that names a plugin; `options` are keywords of its constructor."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A whole experiment. `source` is the file it came from, for messages."""

    name: str
    source: str
    data: PluginSection
    root: str | None
    encoder: PluginSection
    cut: Cut
    losses: tuple[LossEntry, ...]
    train: TrainOptions
    views: ViewOptions
    sampling: SamplingOptions

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, in the order of the file; `parse` takes it back."""
        from pydantic_core import to_jsonable_python

        root = {} if self.root is None else {"root": self.root}
        plain: dict[str, Any] = to_jsonable_python({
            "name": self.name,
            "data": {"name": self.data.name, **root, **self.data.options},
            "views": asdict(self.views),
            "encoder": {"name": self.encoder.name, **self.encoder.options},
            "cut": self.cut,
            "sampling": asdict(self.sampling),
            "loss": [_entry_to_dict(entry) for entry in self.losses],
            "train": asdict(self.train),
        })  # fmt: skip  # options may hold what annotations made of words: paths, tuples
        return plain

    def to_yaml(self) -> str:
        return dump_yaml(self.to_dict())


def _entry_to_dict(entry: LossEntry) -> dict[str, Any]:
    blocks = {} if entry.blocks is None else {"blocks": list(entry.blocks)}
    return {"name": entry.name, "weight": entry.weight, **blocks, **entry.options}


# --- reading ---------------------------------------------------------------------------------------------------------

SECTIONS = ("name", "from", "data", "views", "encoder", "cut", "sampling", "loss", "train")
REQUIRED = ("data", "encoder", "loss", "train")
BORROWED = ("data", "encoder")  # sections that may come from the run that training starts from


def read_recipe(path: Path) -> dict[str, Any]:
    """The raw sections of a recipe file, with its name added."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"cannot read the recipe {path}: it is not UTF-8 text") from error
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping with the sections {', '.join(SECTIONS[1:])}",
            "`infomax recipes show gim` is an example",
        )
    return {"name": path.stem, **raw}


def parse(raw: Mapping[str, Any], source: str) -> Recipe:
    """Check the form of a whole recipe. What the plugins' own keys may be is `bind`'s business."""
    for key in raw:
        if key not in SECTIONS:
            raise RecipeError(f"{source}: there is no section {key!r}", suggest(str(key), SECTIONS))
    borrowed_sections(raw, source)
    if missing := [key for key in REQUIRED if raw.get(key) in (None, [], {}, "")]:
        hint = f"a recipe has {', '.join(REQUIRED)}"
        if missing[0] in BORROWED:
            hint += "; --from RUN brings that run's"
        raise RecipeError(f"{source}: the section {missing[0]!r} is missing", hint)
    data = dict(_mapping(raw["data"], "data", source))
    root = data.pop("root", None)
    if root is not None and not isinstance(root, str):
        raise RecipeError(f"{source}: data.root must be a path")
    entries = loss_entries(raw["loss"])
    names = ["loss"] if len(entries) == 1 else [f"loss.{place}" for place in range(len(entries))]
    return Recipe(
        name=_name(raw.get("name", "recipe"), source),
        source=source,
        data=_plugin(data, "data", source),
        root=root,
        encoder=_plugin(raw["encoder"], "encoder", source),
        cut=check_value(Cut, raw.get("cut", "none"), "cut", source),
        losses=tuple(_loss(entry, where, source) for entry, where in zip(entries, names, strict=True)),
        train=_section(TrainOptions, raw["train"], "train", source),
        views=_section(ViewOptions, raw.get("views") or {}, "views", source),
        sampling=_section(SamplingOptions, raw.get("sampling") or {}, "sampling", source),
    )


def borrowed_sections(raw: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """The sections that `infomax train --from RUN` takes from that run: those that the recipe names in ``from``, and of
    `BORROWED` those that it lacks."""
    named = raw.get("from") or []
    named = [named] if isinstance(named, str) else named
    for name in named if isinstance(named, list) else [named]:
        if name not in BORROWED:
            raise RecipeError(
                f"{source}: from: {name!r} is no section that a run can bring", f"sections: {', '.join(BORROWED)}"
            )
    return tuple(name for name in BORROWED if name in named or not raw.get(name))


def loss_entries(loss: Any) -> list[Any]:
    """The section `loss` as the list that it is short for, its entries as mappings."""
    entries = loss if isinstance(loss, list) else [] if loss is None else [loss]
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


def _name(value: Any, source: str) -> str:
    """A recipe's name, which will name folders."""
    if not isinstance(value, str) or not value.isprintable() or not value or set(value) & set("/\\"):
        raise RecipeError(f"{source}: name must be a word that can name a folder, not {value!r}")
    return value


def _mapping(value: Any, where: str, source: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise RecipeError(f"{source}: {where} must be a mapping, such as {{name: ..., key: value}}, not {value!r}")
    return value


def _plugin(value: Any, where: str, source: str) -> PluginSection:
    options = dict(_mapping(value, where, source))
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise RecipeError(f"{source}: {where}.name is missing: it says which plugin to use")
    return PluginSection(name, options)


def _loss(value: Any, where: str, source: str) -> LossEntry:
    section = _plugin(value, where, source)
    options = dict(section.options)
    weight = check_value(float, options.pop("weight", 1.0), f"{where}.weight", source)
    if not math.isfinite(weight):
        raise RecipeError(f"{source}: {where}.weight must be a finite number, not {weight}")
    blocks = check_value(list[int] | None, options.pop("blocks", None), f"{where}.blocks", source)
    return LossEntry(section.name, options, weight, None if blocks is None else tuple(blocks))


def _section(kind: type[Section], value: Any, where: str, source: str) -> Section:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{source}: {where} must be a mapping, not {value!r}")
    options = bind(kind, value, where, source)
    try:
        return kind(**options)
    except ValueError as error:
        raise RecipeError(f"{source}: {error}") from error


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ."""
    return list(_differences(one.to_dict(), other.to_dict(), ""))


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _differences(one.get(key), other.get(key), f"{where}.{key}" if where else str(key))
    elif one != other:
        yield where
