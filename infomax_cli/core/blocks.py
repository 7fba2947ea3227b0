"""The cut and the sampling, once, for every method.

A cut divides the encoder's row of stages into blocks. Each block borrows its stages from the encoder, which stays the
only owner of its weights, and is judged by its own losses; what it passes on has nothing flowing back through it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn

from infomax_cli.core.api import (
    Batch,
    BlockSpec,
    DataSpec,
    Encoder,
    Features,
    Gaussian,
    InfomaxError,
    Loss,
    LossOutput,
    MapSpec,
    PluginError,
    UsageError,
    stop_gradient,
)
from infomax_cli.core.compiling import CompiledStage
from infomax_cli.errors import RecipeError, blaming_settings
from infomax_cli.recipe import Cut, SamplingOptions
from infomax_cli.wording import describe_error

Group = tuple[int, ...]


def partition(stages: int, cut: Cut) -> tuple[Group, ...]:
    """Consecutive groups of stage indices: one for all (``none``), one each, or cut after each stage in a list."""
    if cut == "none":
        ends = []
    elif cut == "each":
        ends = list(range(stages - 1))
    else:
        ends = sorted(set(cut))
        if wrong := [end for end in ends if not 0 <= end < stages - 1]:
            raise RecipeError(
                f"cut: there is nothing to cut after stage {wrong[0]}",
                f"the encoder has stages 0 to {stages - 1}; cut after any of 0 to {stages - 2}",
            )
    starts = [0, *(end + 1 for end in ends)]
    return tuple(tuple(range(a, b)) for a, b in zip(starts, [*starts[1:], stages], strict=True))


def cut_for_splits(stages: int, splits: int) -> list[int]:
    """The cut into `splits` groups of equal size, the surplus stages going to the last groups."""
    if not 1 <= splits <= stages:
        raise UsageError(f"--splits {splits}: the encoder has {stages} stages", f"choose 1 to {stages}")
    size, surplus = divmod(stages, splits)
    sizes = [size] * (splits - surplus) + [size + 1] * surplus
    return [end - 1 for end in accumulate(sizes[:-1])]


@dataclass(frozen=True)
class _Run:
    """What a row of stages made of one input."""

    maps: tuple[Tensor, ...]
    posteriors: tuple[Gaussian | None, ...]
    output: Tensor


def _run_stages(
    encoder: Encoder, stages: Iterable[tuple[int, Callable[[Any], Any]]], x: Tensor, *, sample: bool, first: int = 0
) -> _Run:
    """Run `stages` on the output `x` of stage ``first - 1``; a Gaussian is sampled, or its mean taken, here only."""
    maps, posteriors = [encoder.readout(x, first - 1)], []
    for index, stage in stages:
        y = stage(x)
        posteriors.append(y if isinstance(y, Gaussian) else None)
        if isinstance(y, Gaussian):
            y = y.sample() if sample else y.mean
        maps.append(encoder.readout(y, index))
        x = y
    return _Run(tuple(maps), tuple(posteriors), x)


def encode(encoder: Encoder, x: Tensor, sampling: SamplingOptions, last: int | None = None) -> tuple[Tensor, ...]:
    """The readout of every depth, up to depth `last`, for a raw input ``(B, C, *grid)``, as evaluation sees it."""
    stages = enumerate(itertools.islice(encoder.stages, None if last is None else last + 1))
    return _run_stages(encoder, stages, encoder.prepare(x), sample=sampling.eval == "sample").maps[1:]


def encode_head(encoder: Encoder, x: Tensor, stages: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """The readouts of the first `stages` stages for a raw input, and the output of the last, as the next one reads it;
    of Gaussians the mean."""
    head = enumerate(itertools.islice(encoder.stages, stages))
    run = _run_stages(encoder, head, encoder.prepare(x), sample=False)
    return run.maps[1:], run.output


def prepare(encoder: Encoder, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Raw views ``(B, C, *grid)`` as the first block takes them: images as convolutions read them fastest."""
    return tuple(_channels_last(encoder.prepare(view)) for view in views)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@dataclass(frozen=True)
class BlockOutput:
    """`total` is the weighted sum of the block's terms, `monitored` that of its monitors' (either may be None).

    `terms` are unweighted, by name; `outputs` are the views as the next block gets them.
    """

    total: Tensor | None
    monitored: Tensor | None
    terms: Mapping[str, Tensor]
    watched: Mapping[str, Tensor]
    outputs: tuple[Tensor, ...]

    @property
    def logged(self) -> dict[str, Tensor]:
        """All that is told of the block: its terms, what is watched, and the total where no term alone is it."""
        total = {} if self.total is None or len(self.terms) == 1 else {"total": self.total.detach()}
        return {**self.terms, **total, **self.watched}


class Block(nn.Module):
    """Consecutive stages, borrowed from the encoder, and the losses that train them.

    `losses` come by entry name, with their weights. One input a view goes in; terms and cut outputs come out.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: BlockSpec,
        losses: Mapping[str, Loss],
        weights: Mapping[str, float],
        sampling: SamplingOptions,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.index = spec.index
        self.sampling = sampling
        self.weights = dict(weights)
        self.stages = nn.ModuleList(encoder.stages[index] for index in spec.stages)
        self.losses = nn.ModuleDict(losses)  # type: ignore[arg-type]  # a Loss is a module
        self._runners: tuple[Callable[[Any], Any], ...] = tuple(self.stages)  # the stages as they are run
        self._owner = (encoder,)  # in a tuple, so that its weights do not count as the block's own

    def forward(self, inputs: Sequence[Tensor], batch: Batch) -> BlockOutput:
        runs = [self._run(x) for x in inputs]
        views = tuple(self._features(run) for run in runs)
        totals: dict[bool, list[Tensor]] = {True: [], False: []}
        terms: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        for entry, loss in self.losses.items():
            monitor = is_monitor(loss)
            output = self._judge(entry, loss, stop_gradient(views) if monitor else views, batch)
            self._check_reach(entry, output)
            totals[monitor] += [self.weights[entry] * term for term in output.terms.values()]
            terms |= _under(entry, output.terms)
            watched |= _under(entry, output.watched, flat=False)
        return BlockOutput(
            total=_sum(totals[False]),
            monitored=_sum(totals[True]),
            terms=terms,
            watched=watched,
            outputs=stop_gradient(tuple(run.output for run in runs)),
        )

    def _judge(self, entry: str, loss: Loss, views: Sequence[Features], batch: Batch) -> LossOutput:
        """What a loss says. A stranger's may raise anything, or return what is no verdict: it is named then."""
        try:
            output = loss(views, batch)
        except (InfomaxError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"loss {entry} fails on block {self.index}: {describe_error(error)}",
                "INFOMAX_DEBUG=1 shows where; tell its authors",
            ) from error
        if not isinstance(output, LossOutput) or not (
            all(isinstance(value, Tensor) and value.dim() == 0 for value in output.terms.values())
            and all(isinstance(value, Tensor) and value.dim() <= 1 for value in output.watched.values())
        ):
            raise PluginError(
                f"loss {entry} returns on block {self.index} what is not a LossOutput of scalar tensors",
                "tell its authors",
            )
        return output

    @torch.no_grad()
    def advance(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Only the outputs, without a graph: what a frozen block is run for."""
        return tuple(self._run(x).output for x in inputs)

    def compile_stages(self, tell: Callable[[str], None]) -> None:
        """Have the stages compiled when they are first run; `tell` hears of those that could not be."""
        named = zip(self.spec.stages, self.stages, strict=True)
        self._runners = tuple(CompiledStage(stage, f"stage {index}", tell) for index, stage in named)

    def trained_parameters(self) -> list[nn.Parameter]:
        """The stages' and the losses' parameters, monitors apart."""
        judges = [loss for loss in self.losses.values() if not is_monitor(loss)]
        return [*self.stages.parameters(), *(p for loss in judges for p in loss.parameters())]

    def monitor_parameters(self) -> list[nn.Parameter]:
        return [p for loss in self.losses.values() if is_monitor(loss) for p in loss.parameters()]

    @property
    def is_trained(self) -> bool:
        """Whether anything but a monitor looks at this block."""
        return any(not is_monitor(loss) for loss in self.losses.values())

    def _check_reach(self, entry: str, output: LossOutput) -> None:
        """A term that depends on nothing the block trains would end in a stranger's words in the backward pass."""
        for name, term in output.terms.items():
            if torch.is_grad_enabled() and not term.requires_grad:
                raise RecipeError(
                    f"the term {name} of loss {entry} depends on nothing that block {self.index} trains",
                    "a block's input comes without gradient; judge its output, or keep the loss off it with `blocks:`",
                )

    def _run(self, x: Tensor) -> _Run:
        stages = zip(self.spec.stages, self._runners, strict=True)
        sample = self.training or self.sampling.eval == "sample"
        return _run_stages(self._owner[0], stages, x, sample=sample, first=self.spec.stages[0])

    def _features(self, run: _Run) -> Features:
        """Name the target and the context; where draws are independent, the context is a second one."""
        target, context = run.maps[self.spec.target], None
        if self.spec.context is not None:
            context = run.maps[self.spec.context]
        posterior = run.posteriors[self.spec.target - 1] if self.spec.target else None
        if context is None and posterior is not None and self._draws_twice:
            stage = self.spec.stages[self.spec.target - 1]
            context = self._owner[0].readout(posterior.sample(), stage)
        posteriors = tuple(posterior for posterior in run.posteriors if posterior is not None)
        return Features(run.maps, target, context, posteriors)

    @property
    def _draws_twice(self) -> bool:
        sampled = self.training or self.sampling.eval == "sample"
        return sampled and self.sampling.draws == "independent"


def module_of(encoder: Encoder) -> nn.Module:
    """The encoder as the module that it is; a protocol cannot say so."""
    return cast(nn.Module, encoder)


def is_monitor(loss: nn.Module) -> bool:
    return bool(getattr(loss, "monitor", False))


def describe_blocks(encoder: Encoder, groups: Sequence[Group], data: DataSpec, views: int) -> tuple[BlockSpec, ...]:
    """What every loss will be told of its block, found by one dry pass in evaluation mode; no data is read."""
    run = _dry_pass(encoder, data)
    axes = [encoder.geometry(stage) for stage in range(-1, len(encoder.stages))]
    for depth, (readout, geometry) in enumerate(zip(run.maps, axes, strict=True)):
        if readout.shape[0] != 2 or readout.dim() != len(geometry) + 2:
            raise PluginError(
                f"{type(encoder).__name__}: the readout of stage {depth - 1} is {tuple(readout.shape)} for a batch "
                f"of 2, and its geometry has {len(geometry)} axes",
                "readout must return (B, C, *grid), and geometry one axis for each dimension of the grid",
            )
    maps = [MapSpec(m.shape[1], tuple(m.shape[2:]), geometry) for m, geometry in zip(run.maps, axes, strict=True)]
    return tuple(_block_spec(index, group, encoder, run, maps, data, views) for index, group in enumerate(groups))


def _block_spec(
    index: int, group: Group, encoder: Encoder, run: _Run, maps: Sequence[MapSpec], data: DataSpec, views: int
) -> BlockSpec:
    contexts = [place for place, stage in enumerate(group, 1) if getattr(encoder.stages[stage], "is_context", False)]
    context = contexts[-1] if contexts else None
    return BlockSpec(
        index=index,
        stages=group,
        maps=tuple(maps[group[0] : group[-1] + 2]),
        target=len(group) if context is None else context - 1,
        context=context,
        posteriors=tuple(place for place, stage in enumerate(group, 1) if run.posteriors[stage] is not None),
        views=views,
        data=data,
    )


@torch.no_grad()
def _dry_pass(encoder: Encoder, data: DataSpec) -> _Run:
    """Raises `RecipeError` where the encoder, as it is set, cannot take items of such a shape."""
    module = module_of(encoder)
    was_training = module.training
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    x = torch.zeros(2, data.channels, *data.grid, device=device)
    try:
        with blaming_settings():
            return _run_stages(encoder, enumerate(encoder.stages), encoder.prepare(x), sample=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"{type(encoder).__name__} cannot take this data's items of shape ({data.channels}, "
            f"{', '.join(map(str, data.grid))}): {reason}",
            "choose an encoder for this kind of data, or a larger crop",
        ) from error
    finally:
        module.train(was_training)


def check_ownership(encoder: Encoder) -> None:
    """Every weight belongs to exactly one stage; else a block would change another's step, or a weight never learn."""
    owners: dict[int, int] = {}
    for index, stage in enumerate(encoder.stages):
        for parameter in stage.parameters():
            if owners.setdefault(id(parameter), index) != index:
                first = owners[id(parameter)]
                raise PluginError(f"{type(encoder).__name__}: stages {first} and {index} share a parameter")
    stray = [name for name, parameter in module_of(encoder).named_parameters() if id(parameter) not in owners]
    if stray:
        raise PluginError(
            f"{type(encoder).__name__}: {stray[0]} belongs to no stage, so nothing would train it",
            "move it into a stage, or make it a buffer",
        )


def _under(entry: str, values: Mapping[str, Tensor], *, flat: bool = True) -> dict[str, Tensor]:
    """Names for the log: a loss's only term goes by the entry's name, others below it."""
    if flat and len(values) == 1:
        return {entry: next(iter(values.values())).detach()}
    return {f"{entry}/{name}": value.detach() for name, value in values.items()}


def _sum(terms: Sequence[Tensor]) -> Tensor | None:
    return torch.stack([term.float() for term in terms]).sum() if terms else None
