"""Whether the latent spaces of Variational Greedy InfoMax are near N(0, I), what that costs, and what it buys.

    python benchmarks/vgim.py --out RUNS

On `syllables`, at equal budget and for every seed: V-GIM with several KL weights, its control without Gaussians and KL
(`gim-bn-syllables`) and Greedy InfoMax (`gim-syllables`). For each

- how far the units of its last convolution are from N(0, 1) over the test split (draws, where they are Gaussians), and
  how many are active (KL above 0.01 nat, on validation);
- accuracy of linear probes for syllable and vowel at every depth, beside an encoder of fresh weights;
- how far decoded draws are from the data: the Fréchet distance of their log-mel frames (Heusel et al. 2017, with mel
  bands in place of a network's features), of draws from N(0, I) and from the Gaussian fitted to the features.

What was measured or trained before with the same budget is not done again. Writes ``benchmarks/results/vgim.json`` and
``vgim.png``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from learn import finished, infomax
from measure import RESULTS, markdown, write_result
from torch import Tensor

from infomax_cli.core.decode import DecodeOptions, Decoding
from infomax_cli.core.sound_distance import log_mel
from infomax_cli.core.subject import load_subject
from infomax_cli.core.watcher import Nobody
from infomax_cli.runs import Run

WEIGHTS = (0.005, 0.01, 0.05)
LAST_CONVOLUTION = 4
METHODS: Mapping[str, tuple[str, ...]] = {
    "gim": ("gim-syllables",),
    "gim-bn": ("gim-bn-syllables",),
    **{f"vgim {weight:g}": ("vgim-syllables", f"loss.kl.weight={weight:g}") for weight in WEIGHTS},
}
# one of each kind of encoder: those of fresh weights are alike within a kind
KINDS = ("gim", "gim-bn", "vgim 0.01")
LABELS = ("syllable", "vowel")
_SOUNDS = ("prior", "fitted", "reconstructed", "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--decoder-steps", type=int, default=500)
    parser.add_argument("--draws", type=int, default=128, help="decoded draws of 0.64 s, and test crops beside them")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/vgim"))
    given = parser.parse_args()
    budget = {"steps": given.steps, "batch": given.batch, "decoder_steps": given.decoder_steps, "draws": given.draws}
    rows = measured_before(budget)
    known = {(row["method"], row["seed"]) for row in rows}
    for seed in range(given.seeds):  # seed by seed, so that every method has been seen after the first
        for method in given.methods:
            if (method, seed) in known:
                continue
            print(f"{method}, seed {seed}", file=sys.stderr)
            words = (*METHODS[method], f"train.steps={given.steps}", f"train.batch={given.batch}", f"train.seed={seed}")
            run = trained(words, given.out / method.replace(" ", "-") / f"seed{seed}")
            options = DecodeOptions(steps=given.decoder_steps, seed=seed)
            rows.append(
                {"method": method, "seed": seed, **measured(run, options, given.draws, untrained=method in KINDS)}
            )
            write_result("vgim", {**budget, "rows": rows})
    rows.sort(key=lambda row: list(METHODS).index(row["method"]))  # as they are compared
    path = RESULTS / "vgim.json"
    plot(rows, path.with_suffix(".png"))
    print(table(rows), *(table_of_depths(rows, label) for label in LABELS), sep="\n\n")
    print("written:", path, file=sys.stderr)


def measured_before(budget: Mapping[str, int]) -> list[dict[str, Any]]:
    """The rows of an earlier time with the same budget, which are not measured again."""
    file = RESULTS / "vgim.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = all(before.get(key) == value for key, value in budget.items())
    return list(before["rows"]) if same else []


def trained(words: Sequence[str], folder: Path) -> Run:
    found = [run for run in sorted(folder.glob("*/")) if (run / "encoder.safetensors").exists() and finished(run)]
    if found:
        return Run(found[-1])
    return Run(Path(infomax("train", *words, "--runs", str(folder))["run"]))


def measured(run: Run, options: DecodeOptions, draws: int, *, untrained: bool) -> dict[str, Any]:
    found = explained(run)
    active, units = active_units(run)
    return {
        "mean": statistics.fmean(map(abs, found["mean"])),
        "deviation": statistics.fmean(found["deviation"]),
        "distance": statistics.median(found["distance"]),
        "active": active,
        "units": units,
        "probes": probes(run, untrained=untrained),
        **frechet(run, options, draws),
    }


def explained(run: Run) -> dict[str, Any]:
    """What `infomax explain` says of the last convolution."""
    found: dict[str, Any] = infomax("explain", str(run.path), "--label", "vowel", "--depth", str(LAST_CONVOLUTION))[
        "depths"
    ][0]
    return found


def active_units(run: Run) -> tuple[float | None, int]:
    """Of the block that ends in the last convolution, by the last validation; None without Gaussians."""
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    name = "validation/block2/kl/active"
    last = next((line[name] for line in reversed(lines) if name in line), None)
    return last, int(run.recipe().encoder.options["channels"])


def probes(run: Run, *, untrained: bool) -> dict[str, dict[str, dict[str, float]]]:
    """By label, source and depth: of the run's encoder, and where it is asked for of one of fresh weights."""
    wanted = {"trained", "random"} if untrained else {"trained"}
    kept = {label: run.path / "probes" / f"{label}-linear.json" for label in LABELS}
    known = {label: json.loads(file.read_text(encoding="utf-8")) for label, file in kept.items() if file.exists()}
    if any(not wanted <= {score["source"] for score in known.get(label, {"scores": ()})["scores"]} for label in LABELS):
        known = infomax("probe", ",".join(LABELS), str(run.path), *(["--baseline", "random"] if untrained else []))[
            "labels"
        ]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for label, result in known.items():
        for score in result["scores"]:
            found.setdefault(label, {}).setdefault(score["source"], {})[score["layer"]] = score["accuracy"]
    return found


@torch.no_grad()
def frechet(run: Run, options: DecodeOptions, draws: int) -> dict[str, float]:
    """Of decoded draws to test crops, and, for scale, of reconstructions and of training crops to them."""
    decoding = Decoding(load_subject(run, torch.device("cpu")), [LAST_CONVOLUTION], options)
    with torch.enable_grad():
        decoding.load_or_train(run, Nobody(), lambda step, losses: None)
    decoder = decoding.decoders[LAST_CONVOLUTION]
    crops = {
        split: torch.cat(list(decoding.crops(decoding.split(split), "frechet", draws))) for split in ("train", "test")
    }
    made = decoder(decoding.source.maps(crops["test"])[0], decoding.grid)
    sounds = {
        "train": crops["train"],
        "reconstructed": made,
        "prior": torch.stack(decoding.sample(LAST_CONVOLUTION, draws, "prior")),
        "fitted": torch.stack(decoding.sample(LAST_CONVOLUTION, draws, "fitted")),
    }
    rate = decoding.medium.rate
    assert rate is not None
    wanted = _frames(crops["test"], rate)
    return {f"frechet_{name}": distance(_frames(x, rate), wanted) for name, x in sounds.items()}


def _frames(x: Tensor, rate: int) -> Tensor:
    """Log-mel frames ``(N, 80)`` in decibels."""
    return log_mel(x, rate).transpose(1, 2).flatten(0, 1).double()


def distance(one: Tensor, other: Tensor) -> float:
    """The Fréchet distance of two Gaussians fitted to rows ``(N, D)``: its square root, in the rows' unit."""
    means = (one.mean(0) - other.mean(0)).square().sum()
    first, second = one.T.cov(), other.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float((means + first.trace() + second.trace() - 2 * cross).clamp_min(0).sqrt())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["method", "|mean|", "deviation", "KS", "active", "syllable, conv", "syllable, GRU", "vowel, conv",
              "draws N(0, I)", "draws fitted", "reconstructed", "train"]  # fmt: skip
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        active = "" if own[0]["active"] is None else f"{spread([row['active'] for row in own], 0)} of {own[0]['units']}"
        cells = [("syllable", "4"), ("syllable", "5"), ("vowel", "4")]
        lines.append([
            method, *(spread([row[key] for row in own], 2) for key in ("mean", "deviation", "distance")), active,
            *(spread([100 * row["probes"][label]["trained"][depth] for row in own], 1) for label, depth in cells),
            *(spread([row[f"frechet_{name}"] for row in own], 1) for name in _SOUNDS),
        ])  # fmt: skip
    return markdown(header, lines)


def table_of_depths(rows: Sequence[Mapping[str, Any]], label: str) -> str:
    """Accuracy in per cent: a row a depth, a column a method, and one for each kind of encoder with fresh weights."""
    columns: dict[str, list[Mapping[str, float]]] = {}
    for row in rows:
        for source, depths in row["probes"][label].items():
            name = row["method"] if source == "trained" else f"untrained {row['method'].split()[0]}"
            columns.setdefault(name, []).append(depths)
    depths = [str(depth) for depth in range(LAST_CONVOLUTION + 2)]
    lines = [
        [depth, *(spread([100 * own[depth] for own in column], 1) for column in columns.values())] for depth in depths
    ]
    return markdown([f"{label}, depth", *columns], lines)


def spread(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy and distance from normal against the KL weight, and the controls as lines across."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    varied = {weight: [row for row in rows if row["method"] == f"vgim {weight:g}"] for weight in WEIGHTS}
    varied = {weight: own for weight, own in varied.items() if own}
    for axes, name, value in (
        (left, "syllables of the GRU (%)", lambda row: 100 * row["probes"]["syllable"]["trained"]["5"]),
        (right, "distance from N(0, 1) (KS)", lambda row: row["distance"]),
    ):
        means = [statistics.fmean(map(value, own)) for own in varied.values()]
        axes.plot(list(varied), means, color="#0072b2", label="V-GIM, a dot a seed")
        for weight, own in varied.items():
            axes.plot([weight] * len(own), list(map(value, own)), "o", color="#0072b2")
        for method, color in (("gim-bn", "#d55e00"), ("gim", "#009e73")):
            if own := [value(row) for row in rows if row["method"] == method]:
                axes.axhline(statistics.fmean(own), color=color, linestyle="--", label=method)
        axes.set(xscale="log", xlabel="KL weight", ylabel=name)
        axes.set_xticks(list(varied), [f"{weight:g}" for weight in varied])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
