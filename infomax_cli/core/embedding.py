"""Features of many inputs in files, one each, beside an index. Killed at any moment, it goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from infomax_cli.core.embed_sources import File, Names, Reading, Source
from infomax_cli.core.feature_files import Dtype, Format, Placed, Pool, Spool, write_arrays
from infomax_cli.core.files import hold, write_text
from infomax_cli.core.pretrained import PretrainedEncoder
from infomax_cli.core.streaming import Streamer
from infomax_cli.core.watcher import Watcher
from infomax_cli.errors import DataError, InfomaxError, UsageError
from infomax_cli.wording import describe_error

INDEX = "index.jsonl"
SETTINGS = "embed.json"


@dataclass(frozen=True)
class EmbedOptions:
    depths: tuple[int, ...]
    pool: Pool = "none"
    format: Format = "npy"
    dtype: Dtype = "fp32"


@dataclass
class Embedded:
    """What came of it: how many were made now, how many had been before, and which failed, and why."""

    made: int = 0
    kept: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


class Embedding:
    """A folder of features. `result` tells at any time how far it has come."""

    def __init__(self, model: PretrainedEncoder, options: EmbedOptions, out: Path) -> None:
        self.model, self.options, self.out = model.eval(), options, out
        self.streamer = Streamer(model, options.depths)
        self.result = Embedded()

    def run(self, sources: Sequence[Source], watcher: Watcher) -> Embedded:
        """Features of all that is not there yet. Inputs that cannot be read or encoded are left out, and told.

        Raises `UsageError` where the folder holds features of another encoder, or made in another way.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        busy = UsageError(f"another process writes to {self.out}", "wait for it, or choose another --out")
        with hold(self.out / ".lock", busy):
            self._check_settings()
            for leftover in self.out.rglob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            done = self._done()
            names = Names(self.options.format, [lines[0]["file"] for lines in done.values()])
            watcher.stage(f"embedding into {self.out}", len(sources))
            with (self.out / INDEX).open("a", encoding="utf-8") as index:
                for source in sources:
                    if source.place in done:
                        self.result.kept += 1
                    else:
                        self._try(source, names, index)
                    watcher.advance()
        return self.result

    def _try(self, source: Source, names: Names, index: Any) -> None:
        try:
            reading = source.open()
            with self._spools() as spools:
                self._encode(reading, spools)
                name = names.give(reading.id, is_path=isinstance(source, File))
                write_arrays(self.out / name, self.options.format, spools, reading.id)
                lines = [self._line(source, reading, name, spool) for spool in spools]
        except InfomaxError as error:
            self.result.failed.append((source.place, error.message))
            return
        # a line follows its file, so that a file without one is made again
        index.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        index.flush()
        self.result.made += 1

    @contextlib.contextmanager
    def _spools(self) -> Iterator[list[Spool]]:
        spools = []
        for depth in self.options.depths:
            made = self.model.depths[depth]
            placed = Placed(f"depth{depth}", depth, made.hop, made.centre, self.model.sample_rate)
            time = next((place for place, axis in enumerate(made.axes, 1) if axis.name == "time"), None)
            spools.append(Spool(placed, time, self.options.pool, self.options.dtype, self.out))
        try:
            yield spools
        finally:
            for spool in spools:
                spool.close()

    def _encode(self, reading: Reading, spools: Sequence[Spool]) -> None:
        try:
            for maps in self.streamer.maps(reading.read, reading.total):
                for spool, values in zip(spools, maps, strict=True):
                    spool.add(values)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a convolution that has more taps than the input has samples
            raise DataError(f"{reading.id} cannot be encoded: {describe_error(error)}") from error
        for spool in spools:
            spool.end()

    def _line(self, source: Source, reading: Reading, name: str, spool: Spool) -> dict[str, Any]:
        rate, placed = self.model.sample_rate, spool.placed
        return {
            "id": reading.id,
            "file": name,
            "key": placed.name,
            "depth": placed.depth,
            "shape": list(spool.shape),
            "hop": placed.hop,
            "centre": placed.centre,
            "sample_rate": rate,
            "duration": None if rate is None else reading.total / rate,
            "source": source.place,
            **({"labels": dict(reading.labels)} if reading.labels else {}),
        }

    # --- what is there already ----------------------------------------------------------------------------------------

    def _done(self) -> dict[str, list[dict[str, Any]]]:
        """The index's lines by their source, of inputs that are whole; the index is rewritten to hold only these."""
        path = self.out / INDEX
        found: dict[str, list[dict[str, Any]]] = {}
        with contextlib.suppress(FileNotFoundError):
            for text in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was being written
                    line = json.loads(text)
                    found.setdefault(line["source"], []).append(line)
        whole = {
            place: lines
            for place, lines in found.items()
            if len(lines) == len(self.options.depths) and (self.out / lines[0]["file"]).is_file()
        }
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for lines in whole.values() for line in lines]
        write_text(path, "".join(lines))
        return whole

    def _check_settings(self) -> None:
        settings = {"encoder": _digest(self.model), "recipe": self.model.recipe.name, **asdict(self.options)}
        settings = json.loads(json.dumps(settings))
        path = self.out / SETTINGS
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            write_text(path, json.dumps(settings, indent=2) + "\n")
            return
        except ValueError:
            before = {}
        if changed := [key for key, value in settings.items() if before.get(key) != value]:
            raise UsageError(
                f"{self.out} holds features of another {changed[0]}: they would be mixed",
                "choose another --out, or remove that folder",
            )


def _digest(model: PretrainedEncoder) -> str:
    """Of the weights: features of a run that was trained on are others."""
    digest = hashlib.blake2b(digest_size=12)
    for name, value in model.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
