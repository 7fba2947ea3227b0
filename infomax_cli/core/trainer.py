"""The loop.

For each block in turn: seed, forward, backward, step; only then is the next block run, on outputs that nothing flows
back through. The graph of a block dies before the next one is built: that is the memory that Greedy InfoMax promises.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from infomax_cli.core.api import Batch, DataError, InfomaxError, Split, derive_seed
from infomax_cli.core.blocks import Block, module_of
from infomax_cli.core.build import Experiment
from infomax_cli.core.checkpoint import load_checkpoint, restore, save_checkpoint, save_encoder
from infomax_cli.core.device import autocast, default_workers, gradient_scaler
from infomax_cli.core.logbook import Logbook, Meter
from infomax_cli.core.pictures import log_batch
from infomax_cli.core.schedule import rate_factor
from infomax_cli.core.views import EpochBatches, ViewedSplit, collate, validation_batches
from infomax_cli.errors import CheckpointError, Diverged, Interrupted, RecipeError
from infomax_cli.recipe import TrainOptions
from infomax_cli.runs import Run


class Display(Protocol):
    """What the trainer tells whoever watches."""

    def progress(self, step: int) -> None: ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...


class Stepper:
    """An optimizer with its own scaling and clipping, so that no other's step depends on it."""

    def __init__(self, parameters: Sequence[nn.Parameter], options: TrainOptions, device: torch.device) -> None:
        self.parameters = list(parameters)
        self.clip = options.clip
        self.optimizer = _optimizer(self.parameters, options)
        self.scaler = gradient_scaler(device, options.amp)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _optimizer(parameters: list[nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=options.momentum, **common)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, betas=(options.betas[0], options.betas[1]), eps=options.eps, **common)


class Trainer:
    """Trains the blocks of an experiment and keeps its run. `step` counts optimizer steps done."""

    def __init__(self, experiment: Experiment, run: Run, device: torch.device) -> None:
        self.experiment = experiment
        self.options = experiment.recipe.train
        self.run = run
        self.device = device
        self.step = 0
        self.meter = Meter()
        self.blocks = _running_blocks(experiment.blocks, self.options)
        self.frozen = {block.index for block in self.blocks if not _is_trained(block, self.options)}
        self.steppers = self._make_steppers()
        self.split = experiment.dataset.split(experiment.root, "train")
        self._bad_step = torch.full((len(self.blocks),), -1, device=device)
        batches = self._batches(stop=1)
        self.steps_per_epoch = max(1, batches.per_epoch // self.options.accumulate)
        self.total = self.options.steps or (self.options.epochs or 0) * self.steps_per_epoch

    # --- starting -----------------------------------------------------------------------------------------------------

    def start_from(self, source: Run) -> None:
        """Take the encoder's weights from another run, and nothing else of it."""
        state = load_checkpoint(source.last)
        restore(module_of(self.experiment.encoder), state["encoder"], source.last)

    def resume(self) -> None:
        """Go on after the last checkpoint as though nothing had happened."""
        state = load_checkpoint(self.run.last)
        restore(module_of(self.experiment.encoder), state["encoder"], self.run.last)
        try:
            for block in self.blocks:
                block.losses.load_state_dict(state["losses"][str(block.index)])
            for name, stepper in self.steppers.items():
                stepper.restore(state["steppers"][name])
            self.meter.restore(state["meter"], self.device)
            self.step = state["step"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{self.run.last} does not belong to its run's recipe: {reason}") from error

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(self, display: Display) -> None:
        """Train to the end. Raises `Interrupted` after saving when asked to stop, `Diverged` on a loss not finite."""
        logbook = Logbook(self.run, self.step)
        try:
            with _stop_requested() as stopping:
                self._loop(logbook, display, stopping)
        finally:
            logbook.close()

    def _loop(self, logbook: Logbook, display: Display, stopping: Callable[[], bool]) -> None:
        options, batches = self.options, self._train_batches()
        if self.step == 0:
            self.save(logbook)
        while self.step < self.total:
            for part in range(options.accumulate):
                batch = next(batches)
                if self.step == 0 and part == 0:
                    log_batch(logbook.board, batch, self.experiment.data)
                self._train_on(batch, part)
            self.step += 1
            ended = self.step == self.total
            display.progress(self.step)
            if self._due(options.log_every) or ended:
                self._log(logbook, display)
            if self._due(options.validate_every or self.steps_per_epoch) or ended:
                self._validate(logbook, display)
            if self._due(options.save_every) or ended or stopping():
                self.save(logbook)
            if stopping() and not ended:
                raise Interrupted(
                    f"stopped at step {self.step}; saved in {self.run.path}",
                    f"go on with: infomax train {self.run.path} --resume",
                )

    def _train_on(self, batch: Batch, part: int) -> None:
        """One batch through every block: each is stepped before the next is run."""
        batch = batch.to(self.device, non_blocking=True)
        inputs = self._prepare(batch)
        rate = self.options.lr * rate_factor(self.options, self.step, self.total, self.steps_per_epoch)
        for block in self.blocks:
            self._seed("train", self.step * self.options.accumulate + part, block)
            if block.index in self.frozen:
                with autocast(self.device, self.options.amp):
                    inputs = block.advance(inputs)
                continue
            inputs = self._train_block(block, inputs, batch)
            if part == self.options.accumulate - 1:
                for name in self._stepper_names(block):
                    self.steppers[name].step(rate)
        if self.device.type == "cpu":  # reading it costs nothing here; elsewhere it waits for the next log
            self._check_finite()

    def _train_block(self, block: Block, inputs: Sequence[Tensor], batch: Batch) -> tuple[Tensor, ...]:
        with autocast(self.device, self.options.amp):
            output = block(inputs, batch)
        for name, loss in zip(self._stepper_names(block), (output.total, output.monitored), strict=False):
            if loss is not None:
                self.steppers[name].backward(loss / self.options.accumulate)
        self.meter.add(_named("train", block, output.terms | output.watched))
        self._note_finite(block, [*output.terms.values()])
        outputs: tuple[Tensor, ...] = output.outputs
        return outputs

    def _prepare(self, batch: Batch) -> tuple[Tensor, ...]:
        with torch.no_grad(), autocast(self.device, self.options.amp):
            return tuple(self.experiment.encoder.prepare(view) for view in batch.views)

    def _seed(self, phase: str, number: int, block: Block) -> None:
        rank = 0
        torch.manual_seed(derive_seed(self.options.seed, phase, number, block.index, rank))

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    # --- what must stay finite ----------------------------------------------------------------------------------------

    def _note_finite(self, block: Block, terms: Sequence[Tensor]) -> None:
        """Remember, where it was computed, the first step at which a block's loss was not finite."""
        bad = ~torch.isfinite(torch.stack([term.float() for term in terms])).all()
        slot = self._bad_step[self.blocks.index(block)]
        slot.copy_(torch.where(bad & (slot < 0), torch.full_like(slot, self.step), slot))

    def _check_finite(self) -> None:
        for block, step in zip(self.blocks, self._bad_step.tolist(), strict=True):
            if step >= 0:
                raise Diverged(
                    f"the loss of block {block.index} is not finite at step {step}",
                    f"the last good checkpoint is kept in {self.run.checkpoints}; lower train.lr, or set train.clip=1",
                )

    # --- reading, validating, saving ----------------------------------------------------------------------------------

    def _log(self, logbook: Logbook, display: Display) -> None:
        self._check_finite()
        values = self.meter.read()
        logbook.write(self.step, values)
        display.metrics(self.step, values)

    @torch.no_grad()
    def _validate(self, logbook: Logbook, display: Display) -> None:
        """The losses on held-out items, with seeds that never change; skipped where the data holds none out."""
        if not self.experiment.data.sizes.get("validation"):
            return
        split = self.experiment.dataset.split(self.experiment.root, "validation")
        batches = validation_batches(len(split), self.options.batch, self.options.seed)
        meter = Meter()
        for block in self.blocks:
            block.eval()
        for number, batch in enumerate(self._load(split, batches)):
            batch = batch.to(self.device, non_blocking=True)
            inputs = self._prepare(batch)
            for block in self.blocks:
                self._seed("validation", number, block)
                with autocast(self.device, self.options.amp):
                    output = block(inputs, batch)
                meter.add(_named("validation", block, output.terms | output.watched), weight=len(batch.ids))
                inputs = output.outputs
        self._set_modes()
        values = meter.read()
        logbook.write(self.step, values)
        display.metrics(self.step, values)

    def save(self, logbook: Logbook) -> None:
        """Checkpoint, encoder and logs, each whole at any moment; never a model that is no longer finite."""
        self._check_finite()
        encoder = module_of(self.experiment.encoder)
        for name, tensor in encoder.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise Diverged(f"{name} is no longer finite at step {self.step}", "lower train.lr, or set train.clip=1")
        logbook.sync()
        recipe = self.experiment.recipe.to_dict()
        save_checkpoint(
            self.run.last,
            {
                "format": 1,
                "step": self.step,
                "recipe": recipe,
                "encoder": encoder.state_dict(),
                "losses": {str(block.index): block.losses.state_dict() for block in self.blocks},
                "steppers": {name: stepper.state() for name, stepper in self.steppers.items()},
                "meter": self.meter.state(),
            },
        )
        save_encoder(self.run.encoder_file, encoder, recipe)
        _keep_older(self.run, self.step, self.options.keep)

    # --- data ---------------------------------------------------------------------------------------------------------

    def _batches(self, *, stop: int) -> EpochBatches:
        if not len(self.split):
            raise DataError(f"the train split of {self.experiment.recipe.data.name} is empty")
        label = self.options.batches_of
        if label is not None and label not in self.experiment.data.labels:
            known = ", ".join(self.experiment.data.labels) or "none"
            raise RecipeError(f"train.batches_of: the data has no label {label!r}", f"labels: {known}")
        groups = None if label is None else self.split.item_labels(label)
        start = self.step * self.options.accumulate
        return EpochBatches(
            len(self.split), self.options.batch, self.options.seed, start=start, stop=stop, groups=groups
        )

    def _train_batches(self) -> Iterator[Batch]:
        return self._load(self.split, self._batches(stop=self.total * self.options.accumulate))

    def _load(self, split: Split, batches: Any) -> Iterator[Batch]:
        workers = default_workers() if self.options.workers is None else self.options.workers
        loader = DataLoader(
            ViewedSplit(split, self.experiment.recipe.views),
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_the_parent,
        )
        for batch in loader:
            if isinstance(batch, InfomaxError):
                raise batch
            yield batch

    # --- blocks -------------------------------------------------------------------------------------------------------

    def _make_steppers(self) -> dict[str, Stepper]:
        self._set_modes()
        steppers = {}
        for block in self.blocks:
            parts = (block.trained_parameters(), block.monitor_parameters())
            for name, parameters in zip((f"block{block.index}", f"block{block.index}/monitors"), parts, strict=True):
                if parameters and block.index not in self.frozen:
                    steppers[name] = Stepper(parameters, self.options, self.device)
        return steppers

    def _stepper_names(self, block: Block) -> tuple[str, ...]:
        names = (f"block{block.index}", f"block{block.index}/monitors")
        return tuple(name for name in names if name in self.steppers)

    def _set_modes(self) -> None:
        for block in self.blocks:
            block.train(block.index not in self.frozen)
            if not block.is_trained:
                block.stages.eval()


def describe_blocks_trained(experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each block: its stages, what it puts out, who judges it and how many parameters that trains."""
    rows = []
    for block in experiment.blocks:
        output = block.spec.output
        trained = _is_trained(block, experiment.recipe.train)
        parameters = [*block.trained_parameters(), *block.monitor_parameters()] if trained else []
        rows.append(
            {
                "block": block.index,
                "stages": ", ".join(map(str, block.spec.stages)),
                "output": " x ".join(map(str, (output.channels, *output.grid))),
                "hop": ", ".join(str(axis.hop) for axis in output.axes),
                "losses": ", ".join(block.losses) if trained else "not trained",
                "parameters": sum(parameter.numel() for parameter in parameters),
            }
        )
    return rows


def _running_blocks(blocks: Sequence[Block], options: TrainOptions) -> list[Block]:
    """The blocks up to the last one that any loss looks at."""
    if options.block is not None and not 0 <= options.block < len(blocks):
        raise RecipeError(f"train.block: there is no block {options.block}", f"blocks: 0 to {len(blocks) - 1}")
    last = max(block.index for block in blocks if len(block.losses))
    return list(blocks[: last + 1])


def _is_trained(block: Block, options: TrainOptions) -> bool:
    return len(block.losses) > 0 and options.block in (None, block.index)


def _named(phase: str, block: Block, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{phase}/block{block.index}/{name}": value for name, value in values.items()}


def _keep_older(run: Run, step: int, keep: int) -> None:
    """A second name for this checkpoint, by its step; only the newest `keep` of them stay."""
    if keep:
        numbered = run.checkpoints / f"step-{step:08d}.pt"
        numbered.unlink(missing_ok=True)
        os.link(run.last, numbered)
        for old in sorted(run.checkpoints.glob("step-*.pt"))[:-keep]:
            Path(old).unlink()


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches the whole process group; a loader's worker has nothing to save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _stop_requested:  # noqa: N801 - used as a function
    """Within it, Ctrl-C and SIGTERM ask the loop to stop; a second Ctrl-C does not wait."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Callable[[], bool]:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._ask)
        return lambda: self.asked

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
