"""The loop.

For each block in turn: seed, forward, backward, step; only then is the next block run, on outputs that nothing flows
back through. The graph of a block dies before the next one is built: that is the memory that Greedy InfoMax promises.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from infomax_cli.core.api import Batch, DataError, InfomaxError, Split, derive_seed
from infomax_cli.core.block_cache import BlockCache
from infomax_cli.core.blocks import Block, BlockOutput, module_of, prepare
from infomax_cli.core.build import Experiment, resolve
from infomax_cli.core.checkpoint import (
    keep_older,
    load_checkpoint,
    restore,
    save_checkpoint,
    save_encoder,
    understanding,
)
from infomax_cli.core.device import autocast
from infomax_cli.core.inputs import InputSpec
from infomax_cli.core.loading import load_batches
from infomax_cli.core.logbook import Logbook, Meter
from infomax_cli.core.pictures import log_batch
from infomax_cli.core.rehearsal import rehearse
from infomax_cli.core.schedule import rate_factor
from infomax_cli.core.snapshot import Snapshots
from infomax_cli.core.stepper import Stepper
from infomax_cli.core.stopping import stop_requested
from infomax_cli.core.trained_blocks import is_trained, running_blocks
from infomax_cli.core.views import EpochBatches, ViewedItem, ViewedSplit, validation_batches
from infomax_cli.errors import CheckpointError, Diverged, Interrupted
from infomax_cli.recipe import differences, parse
from infomax_cli.runs import MAY_CHANGE_ON_RESUME, Run

Stopping = Callable[[], bool]


class Display(Protocol):
    """What the trainer tells whoever watches. `preparing` comes before the first step, where something is prepared."""

    def preparing(self, what: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def progress(self, step: int) -> None: ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...


class Trainer:
    """Trains the blocks of an experiment and keeps its run. `step` counts optimizer steps done.

    `awaits_validation`: this step's validation is due, and was put off by a request to stop.
    """

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.experiment = experiment
        self.options = experiment.recipe.train
        self.device = device
        self.step = 0
        self.awaits_validation = False
        self.meter = Meter()
        module_of(experiment.encoder).to(memory_format=torch.channels_last)
        self.blocks = running_blocks(experiment.blocks)
        self._notes: list[str] = []  # to be told with the next step
        if self.options.compile:
            for block in self.blocks:
                block.compile_stages(self._notes.append)
        self.frozen = {block.index for block in self.blocks if not is_trained(block, self.options)}
        self._set_modes()
        self.steppers = self._make_steppers()
        self.split = experiment.dataset.split(experiment.root, "train")
        if self._batches(0, 0).smallest == 1:
            rehearse(experiment, self.split, device)
        self.cache: BlockCache | None = None  # while training from one
        self.steps_per_epoch = max(1, self._batches(0, 0).per_epoch // self.options.accumulate)
        self.total = self.options.steps or (self.options.epochs or 0) * self.steps_per_epoch
        self.snapshots = Snapshots(experiment, device, self.options.tsne) if self.options.tsne else None
        self._bad_steps: dict[str, Tensor] = {}
        self._marks: Mapping[str, int] | None = {}
        self._saved: tuple[int, bool] | None = None
        self._between_steps = True

    @property
    def finished(self) -> bool:
        return self.step == self.total and not self.awaits_validation

    # --- starting -----------------------------------------------------------------------------------------------------

    def start_from(self, source: Run) -> None:
        """Take the encoder's weights from another run, and nothing else of it."""
        theirs, ours = source.recipe().encoder.name, self.experiment.recipe.encoder.name
        if theirs != ours:
            raise CheckpointError(
                f"the encoder of {source.path} is {theirs}, and that of this recipe {ours}",
                "choose a run with the same encoder",
            )
        with understanding(source):
            restore(module_of(self.experiment.encoder), load_checkpoint(source.last)["encoder"], source.last)

    def resume(self, run: Run) -> None:
        """Go on after the last checkpoint of `run` as though nothing had happened."""
        state = load_checkpoint(run.last)
        with understanding(run):
            self._refuse_another_recipe(state["recipe"], run)
            restore(module_of(self.experiment.encoder), state["encoder"], run.last)
            for block in self.blocks:
                block.losses.load_state_dict(state["losses"][str(block.index)])
            for name, stepper in self.steppers.items():
                stepper.restore(state["steppers"][name])
            self.meter.restore(state["meter"], self.device)
            self.step = int(state["step"])
            self.awaits_validation = bool(state.get("awaits_validation", False))
            marks = state.get("log")
            self._marks = None if marks is None else {str(name): int(size) for name, size in marks.items()}
            self._saved = self.step, self.awaits_validation

    def _refuse_another_recipe(self, saved: Mapping[str, Any], run: Run) -> None:
        then, now = resolve(parse(saved, str(run.last))), self.experiment.recipe
        if changed := [key for key in differences(then, now) if key not in MAY_CHANGE_ON_RESUME]:
            raise CheckpointError(
                f"{run.recipe_file} is no longer the recipe that {run.last} was trained by: {', '.join(changed)}",
                f"change it back, or start a new run from its weights with --from {run.path}",
            )

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(self, run: Run, display: Display) -> None:
        """Train to the end. Raises `Interrupted` after saving when asked to stop, `Diverged` on a loss not finite."""
        logbook = Logbook(run, self.step, self._marks)
        try:
            with stop_requested() as stopping:
                if self.options.cache and not self.finished:
                    self.cache = self._filled_cache(run, display, stopping)
                try:
                    self._loop(run, logbook, display, stopping)
                except InfomaxError as error:
                    if self._may_save_after(error):
                        self.save(run, logbook)
                    raise
            if self.cache is not None:
                self.cache.remove()
        except RuntimeError as error:
            if str(error).startswith("DataLoader worker"):  # found out at any time, in whatever is being done
                raise DataError(
                    f"a loader process died: {str(error).splitlines()[0]}",
                    "it may have run out of memory: fewer train.workers need less; train.workers=0 tells more",
                ) from error
            raise
        finally:
            logbook.close()

    def _loop(self, run: Run, logbook: Logbook, display: Display, stopping: Stopping) -> None:
        with contextlib.closing(self._train_batches()) as batches:
            while True:
                if self.awaits_validation and not stopping():
                    self._validate(logbook, display, stopping)
                if self._should_save(stopping):
                    self.save(run, logbook)
                if self.finished:
                    return
                if stopping():
                    raise self._interrupted(run)
                self._make_step(batches, logbook)
                display.progress(self.step)
                while self._notes:
                    display.note(self._notes.pop(0))
                ended = self.step == self.total
                if ended or self.step % self.options.log_every == 0:
                    self._log(logbook, display)
                if self.snapshots is not None and self.step % self.snapshots.every == 0:
                    self._take_snapshot(run, logbook, display)
                validate_every = self.options.validate_every or self.steps_per_epoch
                self.awaits_validation = self._holds_out and (ended or self.step % validate_every == 0)

    def _take_snapshot(self, run: Run, logbook: Logbook, display: Display) -> None:
        assert self.snapshots is not None
        with logbook.writing():
            problem = self.snapshots.take(run, self.step, logbook.board)
        if problem is not None:
            display.note(problem)

    def _may_save_after(self, error: InfomaxError) -> bool:
        """Whether an item that cannot be read, or a batch that cannot be judged, met a state worth keeping."""
        unsaved = self._saved != (self.step, self.awaits_validation)
        return self._between_steps and unsaved and not isinstance(error, Diverged | Interrupted | CheckpointError)

    def _interrupted(self, run: Run) -> Interrupted:
        again = f"go on with: infomax train {shlex.quote(str(run.path))} --resume"
        return Interrupted(f"at step {self.step}; saved in {run.path}", again)

    def _make_step(self, batches: Iterator[Batch], logbook: Logbook) -> None:
        """An optimizer step, for which `accumulate` batches are run."""
        for part in range(self.options.accumulate):
            batch = next(batches)
            self._between_steps = False
            if self.step == 0 and part == 0:
                logbook.board.add_text("recipe", f"```yaml\n{self.experiment.recipe.to_yaml()}```", 0)
                log_batch(logbook.board, self._raw(batch), self.experiment.data)
            self.train_on(batch, part)
        self.step += 1
        self._between_steps = True

    def train_on(self, batch: Batch, part: int | None = None) -> None:
        """One batch through every block: each is stepped before the next is run.

        `part` counts the batches of a step from 0; the optimizers move with the last, which None stands for.
        """
        part = self.options.accumulate - 1 if part is None else part
        batch = batch.to(self.device, non_blocking=True)
        inputs, blocks = self._enter(batch)
        for block in blocks:
            self._seed("train", self.step * self.options.accumulate + part, block)
            if block.index in self.frozen:
                with autocast(self.device, self.options.amp):
                    inputs = block.advance(inputs)
                continue
            inputs = self._train_block(block, inputs, batch)
            if part == self.options.accumulate - 1:
                for stepper in filter(None, self._steppers_of(block)):
                    stepper.step(self._rate(self.step))
        if self.device.type == "cpu":  # reading it costs nothing here; elsewhere it waits for the next log
            self._check_finite()

    def _train_block(self, block: Block, inputs: Sequence[Tensor], batch: Batch) -> tuple[Tensor, ...]:
        with autocast(self.device, self.options.amp):
            output = block(inputs, batch)
        self._note_finite(block, output)
        for stepper, loss in zip(self._steppers_of(block), (output.total, output.monitored), strict=True):
            if stepper is not None and loss is not None:
                stepper.backward(loss / self.options.accumulate)
        self.meter.add(_named("train", block, output.logged))
        outputs: tuple[Tensor, ...] = output.outputs
        return outputs

    def _enter(self, batch: Batch) -> tuple[tuple[Tensor, ...], list[Block]]:
        """What the first block that has to be run is given, and the blocks from it on."""
        if self.cache is None:
            return self._prepare(batch), self.blocks
        return self.cache.inputs(batch), [block for block in self.blocks if block.index not in self.frozen]

    def _prepare(self, batch: Batch) -> tuple[Tensor, ...]:
        with torch.no_grad(), autocast(self.device, self.options.amp):
            return prepare(self.experiment.encoder, batch.views)

    def _seed(self, phase: str, number: int, block: Block) -> None:
        rank = 0
        torch.manual_seed(derive_seed(self.options.seed, phase, number, block.index, rank))

    def _rate(self, step: int) -> float:
        """The learning rate of the step after `step` of them."""
        return self.options.lr * rate_factor(self.options, step, self.total, self.steps_per_epoch)

    # --- what must stay finite ----------------------------------------------------------------------------------------

    def _note_finite(self, block: Block, output: BlockOutput) -> None:
        """Remember, where it was computed, the first step at which each of a block's losses was not finite."""
        sums = {"weighted sum": output.total, "weighted sum of monitors": output.monitored}
        for name, loss in {**output.terms, **sums}.items():
            if loss is None:
                continue
            name = f"{name} of block {block.index}"
            before = self._bad_steps.get(name, torch.full_like(loss, -1, dtype=torch.int64))
            here = torch.full_like(before, self.step + 1)
            self._bad_steps[name] = torch.where((before < 0) & ~torch.isfinite(loss.detach()), here, before)

    def _check_finite(self) -> None:
        if not self._bad_steps:
            return
        steps = torch.stack(list(self._bad_steps.values())).tolist()
        bad = [(step, place, name) for place, (name, step) in enumerate(zip(self._bad_steps, steps, strict=True))]
        if first := min((entry for entry in bad if entry[0] > 0), default=None):
            raise self._diverged(f"the loss {first[2]} is not finite at step {first[0]}")

    def _diverged(self, what: str) -> Diverged:
        kept = "" if self._saved is None else f"the checkpoint of step {self._saved[0]} is kept; "
        return Diverged(what, f"{kept}try a lower train.lr, or train.clip=1, anew or --from this run")

    # --- reading, validating, saving ----------------------------------------------------------------------------------

    def _log(self, logbook: Logbook, display: Display) -> None:
        self._check_finite()
        reading = self.meter.read()
        logbook.write(self.step, reading)
        logbook.watch(self.step, {"train/lr": self._rate(self.step - 1)})
        display.metrics(self.step, reading.values)

    @property
    def _holds_out(self) -> bool:
        return bool(self.experiment.data.sizes.get("validation"))

    @torch.no_grad()
    def _validate(self, logbook: Logbook, display: Display, stopping: Stopping) -> None:
        """The losses on held-out items, with seeds that never change. A request to stop puts it off."""
        split = self.experiment.dataset.split(self.experiment.root, "validation")
        meter = Meter()
        for block in self.blocks:
            block.eval()
        with contextlib.closing(
            self._load(self._viewed(split), validation_batches(len(split), self.options.batch, self.options.seed))
        ) as batches:
            for number, batch in enumerate(batches):
                if stopping():
                    break
                self._validate_on(batch.to(self.device, non_blocking=True), number, meter)
            else:
                self.awaits_validation = False
        self._set_modes()
        if not self.awaits_validation:
            reading = meter.read()
            logbook.write(self.step, reading)
            display.metrics(self.step, reading.values)

    def _validate_on(self, batch: Batch, number: int, meter: Meter) -> None:
        inputs = self._prepare(batch)
        for block in self.blocks:
            self._seed("validation", number, block)
            with autocast(self.device, self.options.amp):
                output = block(inputs, batch)
            meter.add(_named("validation", block, output.logged), weight=len(batch.ids))
            inputs = output.outputs

    def _should_save(self, stopping: Stopping) -> bool:
        due = self.step % self.options.save_every == 0 or self.step == self.total or stopping()
        return due and self._saved != (self.step, self.awaits_validation)

    def save(self, run: Run, logbook: Logbook) -> None:
        """Logs, encoder and checkpoint, each whole at any moment; never a model that is no longer finite.

        The checkpoint is the last of them: it vouches for the others, and a run that was killed before it was whole
        goes on from the one before.
        """
        self._check_finite()
        encoder = module_of(self.experiment.encoder)
        for part in (encoder, *(block.losses for block in self.blocks)):
            for name, tensor in part.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise self._diverged(f"the weight {name} is no longer finite at step {self.step}")
        marks = logbook.sync()
        recipe = self.experiment.recipe.to_dict()
        inputs = InputSpec.of(self.experiment.data).to_dict()
        save_encoder(run.encoder_file, encoder, recipe, self.step, inputs)
        save_checkpoint(
            run.last,
            {
                "step": self.step,
                "awaits_validation": self.awaits_validation,
                "recipe": recipe,
                "encoder": encoder.state_dict(),
                "losses": {str(block.index): block.losses.state_dict() for block in self.blocks},
                "steppers": {name: stepper.state() for name, stepper in self.steppers.items()},
                "meter": self.meter.state(),
                "log": marks,
            },
        )
        self._saved = self.step, self.awaits_validation
        keep_older(run, self.step, self.options.keep)

    # --- data ---------------------------------------------------------------------------------------------------------

    def _batches(self, start: int, stop: int) -> EpochBatches:
        label = self.options.batches_of
        groups = None if label is None else self.split.item_labels(label)
        return EpochBatches(
            len(self.split),
            self.options.batch,
            self.options.seed,
            start=start,
            stop=stop,
            groups=groups,
            crops=self.options.crops,
        )

    def _train_batches(self) -> Generator[Batch, None, None]:
        accumulate = self.options.accumulate
        split = self._viewed(self.split) if self.cache is None else self.cache.split()
        return self._load(split, self._batches(self.step * accumulate, self.total * accumulate))

    def _viewed(self, split: Split) -> ViewedSplit:
        return ViewedSplit(split, self.experiment.views)

    def _raw(self, batch: Batch) -> Batch:
        """The first batch of all with its views as they were before any block, for those who look at it."""
        if self.cache is None:
            return batch
        with contextlib.closing(self._load(self._viewed(self.split), self._batches(0, 1))) as batches:
            return next(batches)

    def _filled_cache(self, run: Run, display: Display, stopping: Stopping) -> BlockCache:
        """The inputs of the block that is trained, computed unless they are there."""
        cache = BlockCache(self.experiment, self.device, run.path / "block-inputs")
        if cache.is_filled():
            return cache

        def advance(rows: int) -> None:
            display.preparing("what the frozen blocks make of the crops", rows, cache.plan.rows)
            if stopping():
                raise self._interrupted(run)

        with contextlib.closing(self._load(self._viewed(self.split), cache.keys())) as batches:
            cache.fill(batches, advance)
        return cache

    def _load(self, split: TorchDataset[ViewedItem | InfomaxError], batches: Any) -> Generator[Batch, None, None]:
        return load_batches(split, batches, self.options.workers, self.device)

    # --- blocks -------------------------------------------------------------------------------------------------------

    def _make_steppers(self) -> dict[str, Stepper]:
        """By name: one for each trained block, and one for the monitors on it."""
        steppers = {}
        for block in self.blocks:
            if block.index in self.frozen:
                continue
            parts = (block.trained_parameters() if block.is_trained else [], block.monitor_parameters())
            for name, parameters in zip(_stepper_names(block), parts, strict=True):
                if parameters:
                    steppers[name] = Stepper(parameters, self.options, self.device)
        return steppers

    def _steppers_of(self, block: Block) -> tuple[Stepper | None, Stepper | None]:
        trained, monitors = _stepper_names(block)
        return self.steppers.get(trained), self.steppers.get(monitors)

    def _set_modes(self) -> None:
        """A block that nothing trains keeps the running statistics of its norms, and passes on means."""
        for block in self.blocks:
            block.train(block.is_trained)
            block.losses.train()


def _stepper_names(block: Block) -> tuple[str, str]:
    return f"block{block.index}", f"block{block.index}/monitors"


def _named(phase: str, block: Block, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{phase}/block{block.index}/{name}": value for name, value in values.items()}
