"""Probes: what a simple classifier can read from a frozen encoder, depth by depth, beside honest baselines.

No label touches the encoder: its features are computed first, without gradient, then classifiers learn from those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from infomax_cli.core.api import DataError, LabelSpec, UsageError, derive_seed
from infomax_cli.core.baselines import Mfcc, raw_source
from infomax_cli.core.classifiers import Fit, fit
from infomax_cli.core.features import MEMORY, FrozenEncoder, Pool, Source
from infomax_cli.core.neighbours import Sheet, find_neighbours
from infomax_cli.core.probe_options import ProbeOptions, check_draws, check_labels, check_options, check_whole
from infomax_cli.core.probe_result import ProbeResult, Score, summarise
from infomax_cli.core.probe_rows import Problem, SourceRows, Splits, few
from infomax_cli.core.protocols import AdamTraining, find_protocol, fit_adam, fit_sklearn
from infomax_cli.core.rows import Rows, distinct
from infomax_cli.core.scratch import scratch_folder, scratch_room
from infomax_cli.core.subject import Subject, untrained
from infomax_cli.core.watcher import Nobody, Watcher

_WHO = {"trained": "trained encoder", "random": "untrained encoder", "mfcc": "MFCCs", "raw": "raw input"}
MOST_DIMENSIONS = 2**14  # of flattened features that are whitened: their covariance is 2 GiB


def probe(
    subject: Subject, labels: Sequence[str], options: ProbeOptions | None = None, watcher: Watcher | None = None
) -> dict[str, ProbeResult]:
    """Probe every depth for every one of `labels`, by label; each split is encoded once for all of them.

    The subject's encoder is left in evaluation mode, its parameters without wanting a gradient. Raises `UsageError` on
    a label, depth or protocol that does not exist, and `DataError` where nothing is labelled.
    """
    options = options or ProbeOptions()
    found = probe_few(subject, labels, [options.labels_per_class], options, watcher)
    return {label: results[0] for label, results in found.items()}


def probe_few(
    subject: Subject,
    labels: Sequence[str],
    counts: Sequence[int | None],
    options: ProbeOptions,
    watcher: Watcher | None = None,
) -> dict[str, tuple[ProbeResult, ...]]:
    """As `probe`, for each of several numbers of labels a class (None: all of them), on the same features; the few are
    among the more."""
    return _Probing(subject, tuple(dict.fromkeys(labels)), tuple(counts), options, watcher or Nobody()).run()


class _Probing:
    """One call of `probe`."""

    def __init__(
        self,
        subject: Subject,
        labels: Sequence[str],
        counts: Sequence[int | None],
        options: ProbeOptions,
        watcher: Watcher,
    ) -> None:
        self.subject, self.labels, self.options, self.watcher = subject, labels, options, watcher
        self.counts = counts
        self.protocol = find_protocol(options.protocol)
        self.notes: dict[str, list[str]] = {label: [] for label in labels}
        self.sheets: dict[str, list[Sheet]] = {label: [] for label in labels}
        check_labels(subject, labels)
        check_options(options, counts)
        check_whole(options, [label for label in labels if self._spec(label).aligned])
        self.classifier = options.classifier or self.protocol.classifier
        self.maps = subject.maps()
        self.pool = options.pool or self._pool_of_protocol()
        for label in labels:
            if options.pool is not None and self._spec(label).aligned:
                self._note(label, f"--pool {options.pool} does nothing: features are pooled to the label's own grid")
        self.depths = self._depths()
        check_draws(subject, options, max(self.depths))
        if self.pool == "flatten":
            self._check_room()
        if "raw" in options.baselines and not self._has_time:
            self._check_width(
                "--baseline raw: an image", subject.data.channels * prod(subject.data.grid), "leave raw out"
            )

    def run(self) -> dict[str, tuple[ProbeResult, ...]]:
        self.splits = Splits(self.subject, self.protocol, self.labels, self._note)
        readable = [label for label in self.labels if self.splits.has(label)]
        scores = {(label, count): list[Score]() for label in readable for count in self.counts}
        chances: dict[str, float] = {}
        for name, source, labels in self._sources(readable):
            rows = self._rows(name, source, labels)
            for label in labels:
                problems = self._problems(name, label, rows)
                if name == "trained" and problems:
                    chances[label] = _chance(problems[0])
                    self._note_unseen(label, problems[0])
                    self._find_neighbours(label, problems)
                for count in self.counts:
                    scores[label, count] += self._scores(name, label, count, problems, rows)
                del problems
            del rows  # there may be no room for those of the next source beside them
        found = {
            label: tuple(self._result(label, count, scores[label, count], chance) for count in self.counts)
            for label, chance in chances.items()
        }
        if not found:
            reasons = dict.fromkeys(note for notes in self.notes.values() for note in notes)
            raise DataError(f"there is nothing to probe: {'; '.join(reasons)}", "both splits need labelled items")
        return found

    def _depths(self) -> list[int]:
        stages = len(self.subject.encoder.stages)
        depth = self.protocol.depth if self.options.depth is None else self.options.depth
        if depth == "all":
            return list(range(stages))
        if depth == "last":
            return [stages - 1]
        if depth == "vectors":
            spread = [place for place, each in enumerate(self.maps) if prod(each.grid) > 1]
            return list(range(spread[-1] if spread else 0, stages))
        if not 0 <= depth < stages:
            raise UsageError(f"--depth {depth}: the encoder has depths 0 to {stages - 1}", "or --depth all")
        return [depth]

    def _spec(self, label: str) -> LabelSpec:
        return self.subject.data.labels[label]

    def _pool_of_protocol(self) -> Pool:
        """Sounds differ in length, so that what is published for flattened images reads their mean."""
        return "mean" if self.protocol.pool == "flatten" and self._has_time else self.protocol.pool

    @property
    def _has_time(self) -> bool:
        return any(axis.name == "time" for each in self.maps for axis in each.axes)

    def _check_width(self, what: str, width: int, hint: str) -> None:
        whitens = self.protocol.is_optimum and self.classifier != "knn"
        if whitens and width > MOST_DIMENSIONS:
            raise UsageError(
                f"{what} has {width:,} values, more than the {MOST_DIMENSIONS:,} of which an optimum can be found",
                f"{hint}, or a published protocol: --protocol dim",
            )

    def _check_room(self) -> None:
        """Flattened maps are a row an item, which cannot be thinned out: refuse what fits neither memory nor disk."""
        widths = {depth: self.maps[depth].channels * prod(self.maps[depth].grid) for depth in self.depths}
        depth = max(widths, key=lambda each: widths[each])
        hint = "use --pool mean, or another --depth"
        self._check_width(f"--pool flatten: depth {depth}", widths[depth], hint)
        sizes = self.subject.data.sizes
        needed = 2 * sum(widths.values()) * (sizes.get("train", 0) + sizes.get("test", 0))
        if needed > MEMORY and needed > (room := scratch_room()):
            raise UsageError(
                f"--pool flatten: the features would take {needed / 2**30:.1f} GiB, and the disk of {scratch_folder()} "
                f"has {max(0, room) / 2**30:.1f} to spare",
                f"{hint}, or set INFOMAX_CACHE to a folder with more room",
            )

    # --- features -----------------------------------------------------------------------------------------------------

    def _sources(self, labels: Sequence[str]) -> Iterator[tuple[str, Source, list[str]]]:
        """Name, source, and the labels to read from it, one after the other: only one's features are held at a time."""
        if not labels:
            return
        subject, sampling = self.subject, self.subject.recipe.sampling
        # a baseline that cannot be had says so before anything is computed
        mfcc = Mfcc(subject.data) if "mfcc" in self.options.baselines else None
        raw = self._raw_sources(labels) if "raw" in self.options.baselines else []
        yield "trained", FrozenEncoder(subject.encoder, sampling, subject.device, self.depths), list(labels)
        if "random" in self.options.baselines:
            fresh = untrained(subject, self.options.seed)
            yield "random", FrozenEncoder(fresh, sampling, subject.device, self.depths), list(labels)
        if mfcc is not None:
            yield "mfcc", mfcc, list(labels)
        for source, readable in raw:
            yield "raw", source, readable

    def _raw_sources(self, labels: Sequence[str]) -> list[tuple[Source, list[str]]]:
        """Labels on one grid are read from one source."""
        sources: dict[tuple[int | None, float], tuple[Source, list[str]]] = {}
        for label in labels:
            spec = self._spec(label)
            key = (spec.hop, spec.offset if spec.aligned else 0.0)
            if key not in sources:
                sources[key] = (raw_source(self.subject.data, spec), [])
            sources[key][1].append(label)
        return list(sources.values())

    def _rows(self, name: str, source: Source, labels: Sequence[str]) -> SourceRows:
        return SourceRows(
            source,
            self.splits,
            labels,
            pool=self.pool,
            seed=self.options.seed,
            drawn=[self._drawing()] * self.options.draws if name == "trained" else (),
            stage=lambda what, total: self.watcher.stage(f"{_WHO[name]}: {what}", total),
            advance=self.watcher.advance,
        )

    def _drawing(self) -> Source:
        """The trained encoder, drawing from its Gaussians."""
        subject = self.subject
        sampling = replace(subject.recipe.sampling, eval="sample")
        return FrozenEncoder(subject.encoder, sampling, subject.device, self.depths)

    def _problems(self, name: str, label: str, rows: SourceRows) -> list[Problem]:
        """One for each layer that the label can be read from."""
        problems = []
        for problem in rows.problems(label):
            if self._spec(label).aligned and problem.layer.time is None:
                self._note(label, f"depth {problem.layer.name} has no time axis to align the label to, and is left out")
            elif not len(problem.train) or not len(problem.test):
                empty = " and ".join(
                    split
                    for split, part in zip(self.splits.pair(label), (problem.train, problem.test), strict=True)
                    if not len(part)
                )
                self._note(label, f"{name}: nothing in {empty} has the label {label}")
            else:
                problems.append(problem)
        return problems

    # --- fitting and scoring ------------------------------------------------------------------------------------------

    def _find_neighbours(self, label: str, problems: Sequence[Problem]) -> None:
        for problem in problems if self.options.neighbours else ():
            sheet = find_neighbours(
                problem.layer.name,
                problem.train,
                problem.test,
                self.options.neighbours,
                self.options.seed,
                self.subject.device,
            )
            self.sheets[label].append(sheet)

    def _scores(
        self, name: str, label: str, count: int | None, problems: Sequence[Problem], rows: SourceRows
    ) -> list[Score]:
        training = self.protocol.aligned if self._spec(label).aligned else self.protocol.whole
        if training is not None and problems:
            fits = self._train(training, name, label, problems, rows)
            return [
                self._score(name, label, problem, [one], [problem.train])
                for problem, one in zip(problems, fits, strict=True)
            ]
        repeats = 1 if count is None else self.options.repeats
        few = "" if count is None else f" from {count} a class"
        self.watcher.stage(f"{_WHO[name]}: learning {label}{few}", len(problems) * repeats)
        scores = []
        for problem in problems:
            learnt = [self._few(label, count, problem.train, repeat) for repeat in range(repeats)]
            fits = [self._fit(label, part, repeat) for repeat, part in enumerate(learnt)]
            scores.append(self._score(name, label, problem, fits, learnt))
        return scores

    def _fit(self, label: str, rows: Rows, repeat: int) -> Fit:
        if self.protocol.within_test is not None:
            fitted = fit_sklearn(rows)
        else:
            seed = derive_seed("probe", self.options.seed, label, repeat)
            whole = not self._spec(label).aligned
            fitted = fit(self.classifier, rows, seed=seed, device=self.subject.device, whole=whole)
        self.watcher.advance()
        return fitted

    def _train(
        self, training: AdamTraining, name: str, label: str, problems: Sequence[Problem], rows: SourceRows
    ) -> list[Fit]:
        """All layers side by side, so that the crops of an epoch are encoded once."""
        places = [rows.source.layers.index(problem.layer) for problem in problems]

        def rows_of_epoch(epoch: int) -> Sequence[Rows]:
            if epoch == 0 or not rows.has_crops(label):
                return [problem.train for problem in problems]
            found = rows.crops(label, epoch)
            what = f"{_WHO[name]}: learning {label}, epoch {epoch} of {training.epochs}"
            self.watcher.stage(what, len(problems))
            return [found[place] for place in places]

        self.watcher.stage(f"{_WHO[name]}: learning {label}", training.epochs * len(problems))
        seed = derive_seed("probe", self.options.seed, label)
        head = self.protocol.heads[self.classifier]
        return fit_adam(
            training,
            rows_of_epoch,
            seed=seed,
            device=self.subject.device,
            head=head,
            advance=self.watcher.advance,
        )

    def _few(self, label: str, count: int | None, rows: Rows, repeat: int) -> Rows:
        if count is None:
            return rows
        spec = self._spec(label)
        chosen, lacking = few(rows, count, by_item=not spec.aligned, seed=(self.options.seed, label, repeat))
        for value, there in lacking.items():
            name = spec.names[value] if value < len(spec.names) else str(value)
            self._note(label, f"class {name} has {there} labelled, fewer than {count}; all are used")
        return chosen

    def _score(self, name: str, label: str, problem: Problem, fits: Sequence[Fit], learnt: Sequence[Rows]) -> Score:
        measured = []
        for one, part in zip(fits, learnt, strict=True):
            values = {f"train_{key}": value for key, value in _measure(one, part).items()}
            values |= _measure(one, problem.test)
            measured.append(values if one.held_out is None else values | {"held_out": one.held_out})
            for note in one.notes:
                self._note(label, f"{name} {problem.layer.name}: {note}")
        axes, rate = problem.layer.axes, self.subject.data.rate
        hop = axes[(problem.layer.time or 2) - 2].hop if axes else None
        depth = int(problem.layer.name) if name in ("trained", "random") else None
        return summarise(
            measured,
            [one.choice for one in fits],
            source=name,
            layer=problem.layer.name,
            depth=depth,
            grid=None if depth is None or problem.layer.time is not None else self.maps[depth].grid,
            hop=hop,
            hop_ms=1000 * hop / rate if hop and rate else None,
            dims=problem.test.dims,
            train_rows=len(learnt[0]),
            test_rows=len(problem.test),
        )

    def _result(self, label: str, count: int | None, scores: Sequence[Score], chance: float) -> ProbeResult:
        options, spec, (train, test) = self.options, self._spec(label), self.splits.pair(label)
        return ProbeResult(
            label=label,
            aligned=spec.aligned,
            classes=spec.classes,
            train_split=train,
            test_split=test,
            classifier=self.classifier,
            protocol=options.protocol,
            pool="label grid" if spec.aligned else self.pool,
            labels_per_class=count,
            repeats=1 if count is None else options.repeats,
            draws=options.draws,
            seed=options.seed,
            chance=chance,
            depths=tuple(self.depths),
            all_depths=len(self.depths) == len(self.subject.encoder.stages),
            scores=tuple(scores),
            notes=self._notes(label),
            step=self.subject.step,
            trained_steps=self.subject.trained,
            data=self.subject.borrowed,
            sheets=tuple(self.sheets[label]) if count == self.counts[0] else (),
        )

    # --- what is to be known ------------------------------------------------------------------------------------------

    def _note(self, label: str, text: str) -> None:
        self.notes[label].append(text)

    def _notes(self, label: str) -> tuple[str, ...]:
        """What was noted, each once; of a published protocol first what it is."""
        protocol = [] if self.protocol.is_optimum else [f"protocol {self.protocol.name}: {self.protocol.says}"]
        return tuple(dict.fromkeys([*protocol, *self.notes[label]]))

    def _note_unseen(self, label: str, problem: Problem) -> None:
        seen = problem.train.labels.bincount(minlength=self._spec(label).classes) > 0
        unseen = problem.test.labels[~seen[problem.test.labels]]
        if len(unseen):
            self._note(
                label,
                f"classes that never occur in {self.splits.pair(label)[0]}: {len(distinct(unseen)[0])}; their "
                f"{len(unseen):,} of {len(problem.test):,} tested rows count as wrong",
            )


def _measure(fitted: Fit, rows: Rows) -> Mapping[str, float]:
    """Accuracy, and its mean over the classes that occur."""
    right = (torch.cat([fitted.predict(part) for part in rows.parts()]) == rows.labels).double()
    found = rows.labels.bincount(right)
    counts = rows.labels.bincount()
    return {"accuracy": float(right.mean()), "balanced_accuracy": _mean_share(found, counts)}


def _mean_share(found: Tensor, counts: Tensor) -> float:
    return float((found[counts > 0] / counts[counts > 0]).mean())


def _chance(problem: Problem) -> float:
    """The accuracy of always naming the commonest class of training."""
    return float((problem.test.labels == problem.train.labels.bincount().argmax()).double().mean())
