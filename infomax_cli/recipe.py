"""Recipes: YAML and overrides in, a checked `Recipe` out. Knows no plugin and no torch.

The sections of fixed form (`train`, `views`, `sampling`) are dataclasses here. The sections that name a plugin stay
mappings until `bind` holds their keys against the plugin's constructor.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from infomax_cli.errors import RecipeError
from infomax_cli.wording import describe_error, suggest

Section = TypeVar("Section")
Cut = Literal["none", "each"] | list[int]


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
class TrainOptions:
    """How long, how fast and how. One of `epochs` and `steps` says when to stop; everything `_every` counts steps.

    `batches_of` names a label (speaker): each batch is then drawn from items of one value. `init` is a run whose
    encoder weights to start from. `block` trains that block alone: those below are frozen, those above left out.
    `crops` draws so many crops of each item once and for all, in place of a new one each epoch; with `cache` what the
    frozen blocks make of them is computed once, and read from disk. `compile` has torch.compile make each block faster.
    `workers` None means one for each core but the first, four at most; `keep` is how many older checkpoints stay.
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
    """How many views are made of an item, by which augmentations; those in `shared` are drawn once for all views."""

    count: int = 1
    augment: str | list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)

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
        return yaml.dump(self.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _entry_to_dict(entry: LossEntry) -> dict[str, Any]:
    blocks = {} if entry.blocks is None else {"blocks": list(entry.blocks)}
    return {"name": entry.name, "weight": entry.weight, **blocks, **entry.options}


# --- reading ---------------------------------------------------------------------------------------------------------

SECTIONS = ("name", "data", "views", "encoder", "cut", "sampling", "loss", "train")
REQUIRED = ("data", "encoder", "loss", "train")


class _Loader(yaml.SafeLoader):
    """YAML whose floats may be written ``1e-3``, whose dates are words, and whose keys may not stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the words that `_Loader` would take for floats."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))
_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)


def parse_yaml(text: str, source: str) -> Any:
    """Plain data: mappings with words as keys, lists, words, numbers, true, false and null."""
    try:
        # through JSON, which knows no sets, dates, bytes or circles
        return json.loads(json.dumps(yaml.load(text, _Loader)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{place}: not valid YAML: {problem}", "`infomax recipes show gim` is an example") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{source}: not a recipe: {describe_error(error)}", "it may hold words, numbers, lists and mappings"
        ) from error


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


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `raw` with each ``dotted.key=value`` put in; the value is read as YAML.

    ``loss.0.weight`` and ``loss.infonce.weight`` name one of several losses; of a single one its keys follow at once.
    Of ``train.steps`` and ``train.epochs`` the one that is given takes the other's place.
    """
    result = copy.deepcopy(dict(raw))
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise RecipeError(f"{override}: an override is KEY=VALUE", "for example train.lr=1e-3 or loss.negatives=16")
        given[key] = value = parse_yaml(text, override)
        _set(result, key.split("."), value, override)
    for ending, other in (("train.steps", "train.epochs"), ("train.epochs", "train.steps")):
        if given.get(ending) is not None and other not in given and isinstance(result["train"], dict):
            result["train"].pop(other.partition(".")[2], None)
    return result


def _set(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    section, *below = keys
    if section not in SECTIONS:
        raise RecipeError(f"{override}: there is no section {section!r}", suggest(section, SECTIONS))
    if not below:
        tree[section] = value
    elif section == "loss":
        tree["loss"] = entries = _entries(tree.get("loss"))
        place, below = _pick_loss(entries, below, override)
        if below:
            _set_below(entries[place], below, value, override)
        else:
            entries[place] = value
    else:
        if section in ("data", "encoder") and isinstance(tree.get(section), str):
            tree[section] = {"name": tree[section]}
        _set_below(tree, keys, value, override)


def _set_below(tree: Any, keys: list[str], value: Any, override: str) -> None:
    """Put `value` in, making the mappings on the way that are missing."""
    for key in keys[:-1]:
        tree[key] = tree = {} if tree.get(key) is None else tree[key]
        if not isinstance(tree, dict):
            raise RecipeError(f"{override}: {key!r} has nothing below it: it is {tree!r}")
    tree[keys[-1]] = value


def _entries(loss: Any) -> list[Any]:
    """The section `loss` as the list that it is short for, its entries as mappings."""
    entries = loss if isinstance(loss, list) else [] if loss is None else [loss]
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


def _pick_loss(entries: list[Any], keys: list[str], override: str) -> tuple[int, list[str]]:
    """Which entry the keys of an override mean, and what remains of them."""
    key, rest = keys[0], keys[1:]
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    hint = f"name one of: {', '.join(f'loss.{place} ({name})' for place, name in enumerate(names))}" if names else None
    named = [place for place, name in enumerate(names) if name == key]
    if len(named) > 1:
        raise RecipeError(f"{override}: there are {len(named)} losses {key!r}", hint)
    if key.isdecimal() and int(key) < len(entries):
        place, keys = int(key), rest
    elif named and (rest or len(entries) > 1):
        place, keys = named[0], rest
    elif len(entries) == 1 and not key.isdecimal():
        place = 0  # loss.negatives=16 reaches the only entry
    else:
        raise RecipeError(f"{override}: there is no loss {key!r} among {len(entries)}", hint)
    if keys and not isinstance(entries[place], dict):
        raise RecipeError(f"{override}: {key!r} has nothing below it: it is {entries[place]!r}")
    return place, keys


def parse(raw: Mapping[str, Any], source: str) -> Recipe:
    """Check the form of a whole recipe. What the plugins' own keys may be is `bind`'s business."""
    for key in raw:
        if key not in SECTIONS:
            raise RecipeError(f"{source}: there is no section {key!r}", suggest(str(key), SECTIONS))
    if missing := [key for key in REQUIRED if raw.get(key) in (None, [], {}, "")]:
        raise RecipeError(f"{source}: the section {missing[0]!r} is missing", f"a recipe has {', '.join(REQUIRED)}")
    data = dict(_mapping(raw["data"], "data", source))
    root = data.pop("root", None)
    if root is not None and not isinstance(root, str):
        raise RecipeError(f"{source}: data.root must be a path")
    entries = _entries(raw["loss"])
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


# --- holding keys against a constructor ------------------------------------------------------------------------------


def bind(
    factory: Callable[..., Any], given: Mapping[str, Any], where: str, source: str, *, skip: int = 0
) -> dict[str, Any]:
    """The keywords of `factory`, checked against its annotations and filled up with its defaults.

    `where` is the dotted key of the section; the first `skip` parameters are not the recipe's business. Raises
    `RecipeError` on an unknown key, a missing one or a value of the wrong type.
    """
    parameters = list(inspect.signature(factory).parameters.values())[skip:]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for key in given:
        if key not in known and not open_ended:
            accepted = f"accepted: {', '.join(known)}" if known else "it takes no options"
            hint = suggest(str(key), list(known), prefix=f"{where}.")
            raise RecipeError(f"{source}: {where}.{key} is unknown ({accepted})", hint)
    hints = keyword_types(factory)
    bound: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in given:
            bound[name] = check_value(hints.get(name, Any), given[name], f"{where}.{name}", source)
        elif parameter.default is not parameter.empty:
            if _is_plain(parameter.default):
                bound[name] = parameter.default
        elif not open_ended:
            raise RecipeError(f"{source}: {where}.{name} is missing ({describe_type(hints.get(name, Any))})")
    return bound | {key: value for key, value in given.items() if key not in known}


def check_value(kind: Any, value: Any, where: str, source: str) -> Any:
    """`value` as `kind` has it, or a `RecipeError` that says what is accepted."""
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    try:
        # JSON's rules are YAML's: a list may become a tuple, a word a path, but a string no number
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        raise RecipeError(f"{source}: {where} must be {describe_type(kind)}, not {value!r}") from None
    except PydanticUserError:  # an annotation of a stranger's class, which no recipe can hold against anything
        return value


def keyword_types(factory: Callable[..., Any]) -> dict[str, Any]:
    """What its keywords may be."""
    try:
        return typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError, AttributeError):
        return {}  # names that exist for the type checker alone: such an option takes anything


def _is_plain(value: Any) -> bool:
    """Whether a default can be written into a recipe."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def describe_type(kind: Any) -> str:
    """An annotation in words: ``int | None`` is "a whole number or nothing"."""
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    if kind in words:
        return words[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(argument) for argument in arguments)
    if origin in (list, tuple, Sequence):
        several = {int: "whole numbers", float: "numbers", str: "words"}
        return f"a list of {several.get(arguments[0], describe_type(arguments[0]))}" if arguments else "a list"
    if is_dataclass(kind):
        return f"{{{', '.join(part.name for part in fields(kind))}}}"
    return getattr(kind, "__name__", str(kind)).lower()
