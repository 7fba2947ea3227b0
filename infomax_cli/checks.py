"""What `infomax plugins --check` and `infomax doctor` ask in an interpreter of its own; see `infomax_cli.isolation`.

Each function here returns plain data. They import plugins and torch, so nothing else calls them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from infomax_cli import registry
from infomax_cli.errors import InfomaxError
from infomax_cli.isolation import Call, run_all
from infomax_cli.registry import Kind, Plugin
from infomax_cli.wording import describe_error

METHODS: dict[Kind, tuple[str, ...]] = {
    "encoders": ("prepare", "readout", "geometry"),
    "losses": ("forward",),
    "datasets": ("download", "describe", "split"),
}


def check_plugins(plugins: Sequence[Plugin], *, limit: float) -> Iterator[tuple[Plugin, str | None]]:
    """Import plugins in interpreters of their own; yield each with what is wrong with it, or None.

    Every stranger is alone. The built-ins share one interpreter: importing torch is what takes the time.
    """
    ours = tuple(plugin for plugin in plugins if plugin.builtin)
    groups = [*([ours] if ours else []), *((plugin,) for plugin in plugins if not plugin.builtin)]
    words = {group: [word for plugin in group for word in (plugin.kind, plugin.qualified)] for group in groups}
    calls = {group: Call("infomax_cli.checks:check_group", tuple(words[group])) for group in groups}
    for group, answer in run_all(calls, limit=limit):
        failed = [f"when it is imported: {answer.failure}"] * len(group)
        yield from zip(group, failed if answer.failure else answer.value, strict=True)


def check_group(*words: str) -> list[str | None]:
    """In the child: `check_plugin` for each pair of a kind and a name."""
    return [check_plugin(cast(Kind, kind), name) for kind, name in zip(words[::2], words[1::2], strict=True)]


def check_plugin(kind: Kind, name: str) -> str | None:
    """Import the plugin and hold its class against the protocol of its kind; say what is wrong, or None."""
    try:
        loaded = registry.load(kind, name)
    except InfomaxError as error:
        return error.message.partition(" cannot be used: ")[2] or error.message
    return _breach(kind, loaded)


def _breach(kind: Kind, loaded: type[Any]) -> str | None:
    """How a class breaks the contract of its kind, as far as the class alone shows; None where it does not."""
    nn = sys.modules.get("torch.nn")  # where nobody has imported it, no class can be a module of it
    if kind != "datasets" and (nn is None or not issubclass(loaded, nn.Module)):
        return "it is not a torch.nn.Module"
    if missing := [name for name in METHODS[kind] if not callable(getattr(loaded, name, None))]:
        return f"it has no {missing[0]}()"
    if nn is not None and kind == "losses" and loaded.forward is nn.Module.forward:
        return "it has no forward()"
    if inspect.isabstract(loaded):
        return f"it is abstract: {', '.join(sorted(loaded.__abstractmethods__))}"
    try:
        parameters = list(inspect.signature(loaded).parameters.values())
    except (TypeError, ValueError) as error:
        return f"its constructor cannot be read: {error}"
    if kind == "losses" and not any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters[:1]):
        return "its constructor takes no BlockSpec"
    options = parameters[1:] if kind == "losses" else parameters
    if unnamed := [p.name for p in options if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]:
        return f"its option {unnamed[0]!r} cannot be given by name"
    return None


def library_facts(module: str, distribution: str) -> dict[str, Any]:
    """In the child: import a library; say its version, what it raises, and what else is worth knowing of it."""
    facts: dict[str, Any] = {"version": _installed_version(distribution), "problem": None, "notes": []}
    try:
        library = importlib.import_module(module)
        facts["version"] = str(getattr(library, "__version__", facts["version"]))
        if module in _MORE:
            facts |= _MORE[module](library)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a library whose parts do not fit raises OSError, RuntimeError, anything
        absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        facts["problem"] = "not installed" if absent else describe_error(error)
    return facts


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_facts(torch: Any) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        torch.ones(2, 2).mm(torch.ones(2, 2))
        devices = {
            "cuda": [_cuda_facts(torch, index) for index in range(count)],
            "cuda_build": torch.version.cuda,
            "mps": bool(torch.backends.mps.is_available()),
            "cpu": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "bf16": cpu_has_bf16()},
        }
    return {"devices": devices, "notes": [str(warning.message).splitlines()[0] for warning in caught]}


def _cuda_facts(torch: Any, index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    facts = {"name": properties.name, "memory": properties.total_memory, "bf16": False, "problem": None}
    try:
        torch.ones(1, device=f"cuda:{index}").add(1).item()  # a GPU too old or too new for this torch is only met here
        facts["bf16"] = properties.major >= 8
    except RuntimeError as error:
        facts["problem"] = describe_error(error)
    return facts


def cpu_has_bf16() -> bool | None:
    """Whether the CPU multiplies in bfloat16 itself, so that ``amp: bf16`` is faster there; None where not known."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return None
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})


def _soundfile_facts(soundfile: Any) -> dict[str, Any]:
    formats = soundfile.available_formats()
    missing = [name for name in ("FLAC", "WAV", "OGG", "MP3") if name not in formats]
    lacks = [f"its libsndfile cannot read {', '.join(missing)}"] if missing else []
    return {"notes": [f"libsndfile {soundfile.__libsndfile_version__}", *lacks]}


_MORE: dict[str, Callable[[Any], dict[str, Any]]] = {"torch": _torch_facts, "soundfile": _soundfile_facts}
