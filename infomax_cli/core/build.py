"""From a recipe to what it names: dataset, encoder, losses, blocks. The only caller of `registry.load`.

`resolve` holds every key against its plugin before any data is looked at; `build` then asks the dataset what it holds,
and builds the rest.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from infomax_cli import registry
from infomax_cli.binding import bind, check_value, keyword_types
from infomax_cli.core.api import BlockSpec, Dataset, DataSpec, DoesNotFit, Encoder, Loss, PluginError, derive_seed
from infomax_cli.core.augment import resolve_views
from infomax_cli.core.blocks import Block, check_ownership, cut_for_splits, describe_blocks, partition
from infomax_cli.core.views import ViewMaker
from infomax_cli.errors import DataError, InfomaxError, RecipeError, UsageError, blaming_settings
from infomax_cli.overrides import apply_overrides
from infomax_cli.paths import data_root
from infomax_cli.recipe import LossEntry, PluginSection, Recipe
from infomax_cli.wording import describe_error


@dataclass(frozen=True)
class Experiment:
    """A recipe made real. `recipe` is resolved: defaults filled in, the data root absolute. `notes` say what may
    surprise: blocks that a loss does not fit."""

    recipe: Recipe
    root: Path
    dataset: Dataset
    data: DataSpec
    views: ViewMaker
    encoder: Encoder
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


def resolve(recipe: Recipe) -> Recipe:
    """Find every plugin that the recipe names, check its keys against the constructors, and fill in the defaults."""
    source = recipe.source
    losses = []
    for place, entry in enumerate(recipe.losses):
        where = "loss" if len(recipe.losses) == 1 else f"loss.{place}"
        options = bind(registry.load("losses", entry.name), entry.options, where, source, skip=1)
        losses.append(dataclasses.replace(entry, options=options))
    return dataclasses.replace(
        recipe,
        data=_bound("datasets", recipe.data, "data", source),
        root=str(Path(recipe.root).expanduser().resolve() if recipe.root else data_root()),
        encoder=_bound("encoders", recipe.encoder, "encoder", source),
        losses=tuple(losses),
        views=resolve_views(recipe.views, source),
    )


def _bound(kind: registry.Kind, section: PluginSection, where: str, source: str) -> PluginSection:
    try:
        factory = registry.load(kind, section.name)
    except UsageError as error:  # whose recipe asks for it: that of an old run may name what is no longer installed
        raise UsageError(f"{source}: {error.message}", error.hint) from error
    return PluginSection(section.name, bind(factory, section.options, where, source))


def replace_data(raw: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """The raw recipe with its data section made that of dataset `name`, and the keys kept because both know them."""
    factory = registry.load("datasets", name)
    old = raw.get("data")
    kept = {key: value for key, value in old.items() if _takes(factory, key, value)} if isinstance(old, dict) else {}
    return {**raw, "data": {"name": name, **kept}}, sorted(kept)


def _takes(factory: Callable[..., Any], key: str, value: Any) -> bool:
    """Whether a dataset has an option `key` that may be `value`; every dataset has a root."""
    parameters = inspect.signature(factory).parameters
    if key not in parameters:
        return key == "root"
    try:
        check_value(keyword_types(factory).get(key, Any), value, key, "")
    except RecipeError:
        return False
    return True


def build(recipe: Recipe, device: torch.device) -> Experiment:
    """Everything of a resolved recipe, on `device`; reads headers and indexes, decodes nothing."""
    if recipe.train.cache and recipe.sampling.eval == "sample":
        raise RecipeError(
            "train.cache: with sampling.eval: sample the frozen blocks draw anew each time: nothing can be kept",
            "leave out train.cache, or take sampling.eval=mean",
        )
    root = Path(recipe.root or data_root())
    dataset = build_dataset(recipe)
    encoder = build_encoder(recipe, device)
    groups = partition(len(encoder.stages), recipe.cut)  # what is wrong with the cut is told before data is looked at
    if recipe.train.block is not None and recipe.train.block >= len(groups):
        raise RecipeError(f"train.block: there is no block {recipe.train.block}", f"blocks: 0 to {len(groups) - 1}")
    data = dataset.describe(root)
    _check_data(recipe, data)
    views = ViewMaker.of(recipe.views, data)
    specs = describe_blocks(encoder, groups, data, recipe.views.count)
    losses, notes = _build_losses(recipe, specs)
    if not any(losses):
        where = "" if recipe.train.block is None else f" of block {recipe.train.block}"
        raise RecipeError(f"there is nothing to train: no loss is meant for any block{where}", "change loss.blocks")
    blocks = tuple(
        Block(encoder, spec, own, {name: weight for name, (_, weight) in pairs.items()}, recipe.sampling).to(device)
        for spec, pairs in zip(specs, losses, strict=True)
        for own in [{name: loss for name, (loss, _) in pairs.items()}]
    )
    if recipe.train.batch > (items := data.sizes["train"]):
        notes += (f"a batch of {recipe.train.batch:,} is more than the {items:,} items to train on: it holds those",)
    return Experiment(recipe, root, dataset, data, views, encoder, blocks, notes)


def _check_data(recipe: Recipe, data: DataSpec) -> None:
    """Refuse an empty train split, and batches drawn by what is no label of whole items."""
    if not data.sizes.get("train"):
        raise DataError(f"the train split of {recipe.data.name} is empty", "choose other data, or another subset")
    label = recipe.train.batches_of
    whole = [name for name, spec in data.labels.items() if not spec.aligned]
    if label is not None and label not in whole:
        raise RecipeError(
            f"train.batches_of: the data has no label {label!r} of whole items", f"it has {', '.join(whole) or 'none'}"
        )


def build_dataset(recipe: Recipe) -> Dataset:
    """Bound anew, since a recipe read back from a run holds plain data."""
    return _make_dataset(_bound("datasets", recipe.data, "data", recipe.source))


def dataset_by_name(name: str, changes: Sequence[str], verb: str = "download") -> Dataset:
    """A dataset outside of any recipe; `changes` are ``data.key=value``, and `verb` is what is asked about it."""
    raw = apply_overrides({"data": {"name": name}}, changes)["data"]
    options = {key: value for key, value in raw.items() if key != "name"}
    return _make_dataset(_bound("datasets", PluginSection(name, options), "data", f"{verb} {name}"))


def _make_dataset(section: PluginSection) -> Dataset:
    made = _construct(registry.load("datasets", section.name), section.options, f"dataset {section.name}")
    if not isinstance(made, Dataset):
        raise PluginError(f"dataset {section.name} lacks download, describe or split")
    return made


def build_encoder(recipe: Recipe, device: torch.device) -> Encoder:
    """The encoder with fresh weights drawn from the recipe's seed, whatever the cut and the losses.

    Its options are bound anew, since a recipe read back from a run holds plain data.
    """
    torch.manual_seed(derive_seed(recipe.train.seed, "encoder"))
    name = recipe.encoder.name
    options = _bound("encoders", recipe.encoder, "encoder", recipe.source).options
    made = _construct(registry.load("encoders", name), options, f"encoder {name}")
    if not isinstance(made, nn.Module) or not isinstance(made, Encoder):
        raise PluginError(f"encoder {name} must be an nn.Module with stages, prepare, readout and geometry")
    encoder = cast(Encoder, made.to(device))
    if not len(encoder.stages):
        raise PluginError(f"encoder {name} has no stages")
    check_ownership(encoder)
    return encoder


def splits_override(recipe: Recipe, splits: int) -> list[int]:
    """The cut that ``--splits`` asks for; the encoder says how many stages there are."""
    return cut_for_splits(len(build_encoder(recipe, torch.device("cpu")).stages), splits)


def _construct(factory: Callable[..., Any], options: Mapping[str, Any], what: str, *first: Any) -> Any:
    """Whatever a constructor refuses is the recipe's doing, since it sees nothing else; the rest is its own."""
    try:
        with blaming_settings():
            return factory(*first, **options)
    except InfomaxError:
        raise
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise RecipeError(f"{what} refuses its options: {describe_error(error)}") from error
    except (Exception, SystemExit) as error:  # a stranger's constructor may raise anything
        raise PluginError(f"{what} cannot be built: {describe_error(error)}", "INFOMAX_DEBUG=1 shows where") from error


_Judges = dict[str, tuple[Loss, float]]


def _build_losses(recipe: Recipe, specs: Sequence[BlockSpec]) -> tuple[list[_Judges], tuple[str, ...]]:
    """For every block the losses that fit it, by entry name, and a note on those that do not fit all. An entry that
    fits none is refused, saying why."""
    built: list[_Judges] = [{} for _ in specs]
    notes = []
    for name, entry in zip(_entry_names(recipe.losses), recipe.losses, strict=True):
        reasons = {}
        for spec in _wanted_blocks(entry, specs, recipe.source):
            if recipe.train.block not in (None, spec.index):
                continue
            torch.manual_seed(derive_seed(recipe.train.seed, "loss", name, spec.index))
            try:
                loss = _construct(registry.load("losses", entry.name), entry.options, f"loss {entry.name}", spec)
            except DoesNotFit as misfit:
                reasons[spec.index] = misfit
                continue
            if not isinstance(loss, nn.Module):
                raise PluginError(f"loss {entry.name} must be an nn.Module")
            built[spec.index][name] = (cast(Loss, loss), entry.weight)
        _refuse_misfits(entry, reasons, fits_some=any(name in judges for judges in built))
        if reasons:
            which = f"block{'s' if len(reasons) > 1 else ''} {', '.join(map(str, reasons))}"
            notes.append(f"{which} without {name}: {next(iter(reasons.values())).message}")
    return built, tuple(notes)


def _refuse_misfits(entry: LossEntry, reasons: Mapping[int, DoesNotFit], *, fits_some: bool) -> None:
    if not reasons or (fits_some and entry.blocks is None):
        return
    block, reason = next(iter(reasons.items()))
    which = f"block {block}" if entry.blocks is not None or len(reasons) == 1 else "any block"
    raise DoesNotFit(f"loss {entry.name} does not fit {which}: {reason.message}", reason.hint)


def _wanted_blocks(entry: LossEntry, specs: Sequence[BlockSpec], source: str) -> list[BlockSpec]:
    if entry.blocks is None:
        return list(specs)
    if wrong := [block for block in entry.blocks if not 0 <= block < len(specs)]:
        raise RecipeError(
            f"{source}: loss {entry.name}: blocks: there is no block {wrong[0]}", f"blocks: 0 to {len(specs) - 1}"
        )
    return [specs[block] for block in entry.blocks]


def _entry_names(entries: Sequence[LossEntry]) -> list[str]:
    """One name an entry for logs and checkpoints: the loss's own, with a number from the second of its kind on."""
    names: list[str] = []
    for entry in entries:
        plain = entry.name.replace(":", "-").replace(".", "-")
        numbered = (f"{plain}_{number}" for number in itertools.count(2))
        # a `ModuleDict` has no place for a module called as one of its own methods
        names.append(
            next(n for n in itertools.chain([plain], numbered) if n not in names and not hasattr(nn.ModuleDict, n))
        )
    return names
