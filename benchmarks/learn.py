"""What trained encoders know that untrained ones and plain features do not: every table that compares.

    python benchmarks/learn.py syllables
    python benchmarks/learn.py speech-real --root DATA --out RUNS
    python benchmarks/learn.py fashion --set data.path=FOLDER

Each method is trained with several seeds through the command line, then probed at every depth, beside the same
encoder untrained, with that seed, and MFCCs or raw pixels: same label, same pooling, same classifier. What was trained
or probed before is not done again. A table of mean and standard deviation over the seeds is printed in Markdown, and
all is written to ``benchmarks/results/learn-EXPERIMENT.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

# equal for every method on a corpus of recordings: so many steps (--steps) of eight crops of 1.28 s
BUDGET = (
    "train.epochs=null", "train.batch=8", "train.schedule=cosine", "train.workers=0", "train.log_every=50",
    "train.keep=8", "encoder.channels=128", "encoder.norm=channel",
)  # fmt: skip
QUICK = ("train.lr=1e-3", "train.warmup=100")
GENTLE = ("train.lr=4e-4", "train.warmup=300")  # trained end to end, CPC does not get off the ground with the former


@dataclass(frozen=True)
class Reading:
    """How a label is read from features: by a linear classifier that learns from all labels, or as `options` of
    `infomax probe` say. `title` heads its table; `depths` may be the last alone."""

    label: str
    title: str
    options: tuple[str, ...] = ()
    depths: str = "all"


def all_labels(label: str) -> Reading:
    return Reading(label, label)


def classes(*options: str) -> tuple[Reading, ...]:
    return (
        Reading("class", "class, 10 labels a class", ("--labels-per-class", "10", "--repeats", "10", *options)),
        Reading("class", "class, nearest neighbours", ("--classifier", "knn", *options), depths="last"),
    )


@dataclass(frozen=True)
class Experiment:
    """`methods` are a recipe and its overrides each, trained for `steps` unless these say otherwise; with `curve` the
    last depth is probed after each quarter of them as well. `beside` is what stands beside trained encoders; where
    `encoders_differ`, each method has an untrained one of its own."""

    readings: Sequence[Reading]
    methods: Mapping[str, tuple[str, ...]]
    steps: int = 1000
    curve: bool = False
    beside: str = "mfcc"
    encoders_differ: bool = False

    def quarters(self) -> list[int]:
        return [self.steps * part // 4 for part in (1, 2, 3)] if self.curve else []


def _on_images(
    data: str, *, dim: Sequence[str] = (), greedy_dim: Sequence[str], amdim_cut: str
) -> dict[str, tuple[str, ...]]:
    """Every method on images, end to end and block by block: `dim` is said to the first two besides."""
    return {
        "dim-jsd": (f"dim-{data}", "loss.0.measure=jsd", *dim),
        "dim-nce": (f"dim-{data}", *dim),
        "dim-greedy": (f"dim-{data}", *greedy_dim),
        "amdim": (f"amdim-{data}",),
        "amdim-greedy": (f"amdim-{data}", f"cut={amdim_cut}"),
        "gim": (f"gim-{data}",),
    }


EXPERIMENTS = {
    "syllables": Experiment(
        readings=(all_labels("syllable"), all_labels("vowel")),
        methods={"gim": ("gim-syllables",), "cpc": ("cpc-syllables",)},
        steps=600,
    ),
    # the recordings of one speaker, 104, whose phones are known
    "speech-real": Experiment(
        readings=(all_labels("phone"),),
        methods={
            "gim": ("gim", *BUDGET, *QUICK, "data.speakers=['104']"),
            "cpc": ("cpc", *BUDGET, *GENTLE, "data.speakers=['104']"),
        },
        curve=True,
    ),
    # speakers of the test split are not in the training split
    "speech-synth": Experiment(
        readings=(all_labels("phone"),),
        methods={
            "gim": ("gim", *BUDGET, *QUICK, "data.split_by=speaker"),
            "cpc": ("cpc", *BUDGET, *GENTLE, "data.split_by=speaker"),
        },
    ),
    "digits": Experiment(
        readings=classes(),
        methods=_on_images(
            "digits",
            greedy_dim=("loss={name: local_dim, measure: nce, units: 256}", "encoder.units=0", "cut=each"),
            amdim_cut="[2]",
        ),
        steps=600,
        beside="raw",
        encoders_differ=True,
    ),
    # a probe learns from, or finds neighbours among, 6,000 of the 60,000 training images, for speed
    "fashion": Experiment(
        readings=classes("data.validation_fraction=0.9"),
        methods=_on_images(
            "fashion",
            dim=("train.steps=2000",),
            greedy_dim=("loss={name: local_dim, measure: nce, units: 256, local_samples: 49}", "cut=[0]"),
            amdim_cut="[2]",
        ),
        steps=3000,
        beside="raw",
        encoders_differ=True,
    ),
    # encoders of images, shown spectrograms; every speaker is in both splits, or speakers could not be told
    "speech-synth-images": Experiment(
        readings=(all_labels("phone"), all_labels("speaker")),
        methods={
            "dim": ("dim-speech", "--data", "librispeech"),
            "amdim": ("amdim-speech", "--data", "librispeech"),
        },
        steps=400,
        encoders_differ=True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="another number of steps than the experiment's")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--root", help="where the data lies, for experiments on recordings")
    parser.add_argument("--set", nargs="+", default=[], help="overrides for all methods, such as data.path=FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/learn"), help="where the runs are kept")
    given = parser.parse_args()
    experiment = EXPERIMENTS[given.experiment]
    name = given.experiment if given.steps in (None, experiment.steps) else f"{given.experiment}-{given.steps}"
    experiment = replace(experiment, steps=given.steps or experiment.steps)
    folder = given.out / name
    chosen = given.methods or list(experiment.methods)
    experiment = replace(experiment, methods={method: (*experiment.methods[method], *given.set) for method in chosen})
    result = {"experiment": given.experiment, **measure(experiment, folder, range(given.seeds), given.root)}
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"learn-{name}.json"
    if file.exists():
        result = with_others(result, json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for reading in experiment.readings:
        print((table_of_methods if experiment.encoders_differ else table)(result, reading.title), "\n")
    print(f"written: {file}", file=sys.stderr)


def measure(experiment: Experiment, folder: Path, seeds: Sequence[int], root: str | None) -> dict[str, Any]:
    """Train what is not trained yet, probe everything."""
    probes, curves, minutes = [], [], {}
    quarter = experiment.steps // 4
    every = (f"train.{key}={quarter}" for key in ("save_every", "validate_every"))
    budget = [f"train.steps={experiment.steps}", *every]
    for method, (recipe, *given) in experiment.methods.items():
        overrides = [*budget, *given]
        for seed in seeds:
            run = trained(recipe, overrides, folder / method / f"seed{seed}", seed, root, minutes)
            for reading in experiment.readings:
                print(f"probing {method} seed {seed} for {reading.title}", file=sys.stderr)
                # where encoders are alike, an untrained one is that of no method: once a seed is enough
                wanted = experiment.encoders_differ or method == next(iter(experiment.methods))
                beside = f"random,{experiment.beside}" if wanted else None
                probes.append({"method": method, "seed": seed, **probe(run, reading, seed, beside)})
                for step in experiment.quarters() if seed == 0 else ():
                    at = probe(run, reading, seed, None, step)["trained"][-1]
                    curves.append({"method": method, "seed": seed, "label": reading.title, "step": step, "last": at})
    return {
        "methods": {method: " ".join(words) for method, words in experiment.methods.items()},
        "steps": experiment.steps,
        "seeds": list(seeds),
        "minutes": minutes,
        "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "probes": probes,
        "curves": curves,
    }


def with_others(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured now, beside the methods of an earlier time that were not measured again."""
    kept = [method for method in old["methods"] if method not in new["methods"]]
    merged = dict(new)
    for key in ("probes", "curves"):
        merged[key] = [*(row for row in old[key] if row["method"] in kept), *new[key]]
    merged["methods"] = {**{method: old["methods"][method] for method in kept}, **new["methods"]}
    own = {name: value for name, value in old["minutes"].items() if name.partition(" ")[0] in kept}
    merged["minutes"] = {**own, **new["minutes"]}
    return merged


def trained(
    recipe: str, overrides: Sequence[str], folder: Path, seed: int, root: str | None, minutes: dict[str, float]
) -> Path:
    """The run of one method and seed: the one that lies in `folder`, finished, or a new one."""
    found = [run for run in sorted(folder.glob("*/")) if (run / "encoder.safetensors").exists() and finished(run)]
    if found:
        return found[-1]
    where = [] if root is None else ["--root", root]
    began = time.monotonic()
    made = infomax("train", recipe, *overrides, f"train.seed={seed}", "--runs", str(folder), *where)
    minutes[f"{folder.parent.name} seed {seed}"] = round((time.monotonic() - began) / 60, 1)
    return Path(made["run"])


def finished(run: Path) -> bool:
    """Whether the log ends at the last step that the recipe asks for."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    return bool(lines) and f"steps: {json.loads(lines[-1])['step']}\n" in recipe


def probe(run: Path, reading: Reading, seed: int, beside: str | None, step: int | None = None) -> dict[str, Any]:
    """Accuracy by depth of the encoder and, with `beside`, of the same encoder untrained and of plain features."""
    depths = "last" if step is not None else reading.depths
    at = ["--depth", depths, *([] if step is None else ["--step", str(step)])]
    words = [*reading.options, *at, "--seed", str(seed), *([] if beside is None else ["--baseline", beside])]
    kept = run / "kept-probes.json"  # by the words that asked for them
    known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    name = " ".join([reading.label, *words])
    if name not in known:
        answer = infomax("probe", reading.label, str(run), *words)
        known[name] = answer["labels"][reading.label]
        kept.write_text(json.dumps(known), encoding="utf-8")
    found = known[name]
    by_source: dict[str, list[float]] = {}
    for score in found["scores"]:
        by_source.setdefault(score["source"], []).append(score["accuracy"])
    return {"label": reading.title, "chance": found["chance"], "rows": rows_of(found), **by_source}


def rows_of(found: Mapping[str, Any]) -> dict[str, int]:
    first = found["scores"][0]
    return {"train": first["train_rows"], "test": first["test_rows"]}


def infomax(*words: str) -> dict[str, Any]:
    """What a command prints with ``--json``; its messages go to our stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "infomax_cli", *words, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def table(result: Mapping[str, Any], label: str) -> str:
    """Accuracy in per cent, mean ± standard deviation over the seeds: a row a depth, a column a method."""
    probes = [row for row in result["probes"] if row["label"] == label]
    columns = {method: [row["trained"] for row in probes if row["method"] == method] for method in result["methods"]}
    columns["untrained"] = [row["random"] for row in probes if "random" in row]
    depths = max(len(column[0]) for column in columns.values())
    lines = [f"| {label}, depth | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for depth in range(depths):
        cells = [spread([accuracies[depth] for accuracies in column]) for column in columns.values()]
        lines.append(f"| {depth} | " + " | ".join(cells) + " |")
    mfcc = next(row["mfcc"][0] for row in probes if "mfcc" in row)
    return "\n".join([*lines, "", f"MFCC {100 * mfcc:.1f} %, commonest class {100 * probes[0]['chance']:.1f} %."])


def table_of_methods(result: Mapping[str, Any], title: str) -> str:
    """A row a method: the last depth, and the best one (the same for all seeds), trained and untrained."""
    probes = [row for row in result["probes"] if row["label"] == title]
    lines = [f"| {title} | last depth | untrained | best depth | untrained |", "|---|---|---|---|---|"]
    for method in result["methods"]:
        rows = [row for row in probes if row["method"] == method]
        if not rows:
            continue
        best = max(
            range(len(rows[0]["trained"])), key=lambda depth: statistics.fmean(row["trained"][depth] for row in rows)
        )
        cells = [
            spread([row[source][depth] for row in rows]) for depth in (-1, best) for source in ("trained", "random")
        ]
        lines.append(f"| {method} | {' | '.join(cells[:2])} | {best}: {' | '.join(cells[2:])} |")
    plain = {name: [row[name][0] for row in probes if name in row] for name in ("mfcc", "raw")}
    words = [f"{name} {spread(sorted(set(values)))} %" for name, values in plain.items() if values]
    return "\n".join([*lines, "", ", ".join([*words, f"commonest class {100 * probes[0]['chance']:.1f} %"]) + "."])


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
