"""Decoders for the depths of a frozen encoder: trained, judged, and asked what latents sound like.

A decoder belongs to a run and a depth, and lies in ``RUN/decode/depthK/``. It is trained on crops of the training split
and judged on crops of the test split; nothing of the encoder moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from infomax_cli.core.api import DataError, InfomaxError, Item, Split, UsageError, derive_seed
from infomax_cli.core.decoders import Decoder, check_writable, decoder_file, load_decoder, save_decoder
from infomax_cli.core.features import FrozenEncoder
from infomax_cli.core.media import medium_of
from infomax_cli.core.subject import Subject
from infomax_cli.core.views import EpochBatches
from infomax_cli.core.watcher import Watcher
from infomax_cli.errors import CorruptItem
from infomax_cli.runs import Run

Draws = Literal["prior", "fitted"]
_FITTED = 128  # training crops over which the units of a depth are standardised
_BEFORE = 8  # test crops on which decoders are judged before training
_LOG_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How decoders are trained: `loss` by name (see `media`; None for the medium's own), `steps` of `batch` crops, Adam
    at `lr`."""

    loss: str | None = None
    steps: int = 500
    batch: int = 8
    lr: float = 1e-3
    width: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "width"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)}: must be at least 1")
        if not self.lr > 0:
            raise UsageError(f"--lr {self.lr}: must be above 0")


@dataclass(frozen=True)
class Judged:
    """How well a depth is decoded, over `items` crops of the test split: `measures` are means over items, and `loss` is
    what the decoder was trained to make small, beside that of one before training. `hop` is in samples or pixels."""

    depth: int
    hop: int
    units: int
    parameters: int
    items: int
    loss: float
    untrained_loss: float
    measures: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        return {**plain, **plain.pop("measures")}


class Decoding:
    """Decoders of some `depths` of a subject. Raises `UsageError` where its data is neither sound nor images, or where
    its maps lie on other axes than the data."""

    def __init__(self, subject: Subject, depths: Sequence[int], options: DecodeOptions) -> None:
        self.medium = medium_of(subject.data)
        self.subject, self.depths, self.options = subject, tuple(depths), options
        self.grid = subject.data.grid
        self._check_axes()
        sampling = subject.recipe.sampling
        self.source = FrozenEncoder(subject.encoder, sampling, subject.device, self.depths)
        # a decoder that had only seen means would not know what to make of draws from N(0, I)
        self.drawn = FrozenEncoder(subject.encoder, replace(sampling, eval="sample"), subject.device, self.depths)
        self.loss_name = options.loss or self.medium.default_loss
        self.loss = self.medium.loss(self.loss_name)
        self.decoders: dict[int, Decoder] = {}
        self.untrained_losses: dict[int, float] = {}
        self.kept: list[int] = []  # depths whose decoder is whole, and in the run

    # --- training -----------------------------------------------------------------------------------------------------

    def load_or_train(self, run: Run, watcher: Watcher, log: Callable[[int, dict[str, float]], None]) -> list[int]:
        """Have a decoder for every depth: the one that lies in the run and was made alike, else a new one, which is
        kept there. Returns the depths that were trained."""
        missing = []
        made_by = self._made_by()
        for depth in self.depths:
            found = load_decoder(decoder_file(run, depth, made_by), self._fresh(depth), made_by)
            if found is None:
                missing.append(depth)
            else:
                self.decoders[depth], self.untrained_losses[depth] = found
                self.kept.append(depth)
        if missing:
            check_writable(run.path / "decode")  # before minutes of training, not after
        for depth in missing:  # each is kept as soon as it is trained
            self._train(depth, watcher, log)
            file = decoder_file(run, depth, made_by)
            save_decoder(file, self.decoders[depth], made_by, self.untrained_losses[depth])
            self.kept.append(depth)
        return missing

    def _made_by(self) -> dict[str, Any]:
        """What makes a decoder what it is."""
        subject = self.subject
        encoder = {"step": subject.trained, "data": subject.recipe.to_dict()["data"]}
        return {**asdict(self.options), "loss": self.loss_name, "encoder": encoder, "learns from": "draws"}

    def _check_axes(self) -> None:
        """A map of frequency and time is not mirrored into samples by convolutions."""
        for depth in self.depths:
            axes = self.subject.encoder.geometry(depth)
            if len(axes) != len(self.grid):
                raise UsageError(
                    f"decode: the maps of depth {depth} have {len(axes)} axes, and the data has {len(self.grid)}",
                    "decoders mirror encoders of samples or of pixels, not of spectrograms",
                )

    def _fresh(self, depth: int) -> Decoder:
        encoder, options = self.subject.encoder, self.options
        torch.manual_seed(derive_seed(options.seed, "decoder", depth))
        axes = [encoder.geometry(stage) for stage in range(-1, depth + 1)]
        channels = self.subject.data.channels
        units = self.latents(depth, torch.zeros(1, channels, *self.grid)).shape[1]
        return Decoder(axes, units, width=options.width, channels=channels).to(self.subject.device)

    def _train(self, depth: int, watcher: Watcher, log: Callable[[int, dict[str, float]], None]) -> None:
        split, options, device = self.split("train"), self.options, self.subject.device
        decoder = self.decoders[depth] = self._fresh(depth)
        self._standardise(depth, split)
        self.untrained_losses[depth] = self._loss_of(depth)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=options.lr)
        batches = EpochBatches(len(split), options.batch, derive_seed(options.seed, "decode"), stop=options.steps)
        watcher.stage(f"training the decoder of depth {depth}", options.steps)
        total = torch.zeros((), device=device)
        for step, keys in enumerate(batches, 1):
            x = torch.stack([split[key].input for key in keys]).to(device)
            loss = self.loss(decoder(self._draws(depth, x), x.shape[2:]), x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:  # to zero over the last half
                group["lr"] = options.lr * min(1.0, 2 * (1 - (step - 1) / options.steps))
            optimizer.step()
            total += loss.detach()
            if step % _LOG_EVERY == 0 or step == options.steps:
                mean = float(total) / (step % _LOG_EVERY or _LOG_EVERY)
                if not math.isfinite(mean):
                    raise InfomaxError(
                        f"the loss of the decoder of depth {depth} is not finite by step {step}",
                        "try a lower --lr, or another --loss",
                    )
                log(step, {f"decode/depth{depth}/loss": mean})
                total.zero_()
            watcher.advance()

    def latents(self, depth: int, x: Tensor) -> Tensor:
        """An input ``(B, C, *grid)`` to the depth's map, as evaluation sees it."""
        return self.source.maps(x)[self.depths.index(depth)]

    def _draws(self, depth: int, x: Tensor) -> Tensor:
        """The same with Gaussians drawn from, as the encoder's own stages were trained on them."""
        return self.drawn.maps(x)[self.depths.index(depth)]

    @torch.no_grad()
    def _standardise(self, depth: int, split: Split) -> None:
        """Take the mean and deviation of every unit over some training crops."""
        sums = []
        for x in self.crops(split, "standardise", _FITTED):
            frames = self._draws(depth, x)[0].flatten(1).double().cpu()
            sums.append(torch.stack([torch.ones_like(frames), frames, frames.square()]).sum(2))
        count, first, second = torch.stack(sums).sum(0)
        mean = first / count
        deviation = (second / count - mean.square()).clamp_min(0).sqrt()
        decoder = self.decoders[depth]
        decoder.mean.copy_(mean)
        decoder.deviation.copy_(deviation.clamp_min(1e-3 * float(deviation.max()) + 1e-12))

    @torch.no_grad()
    def _loss_of(self, depth: int) -> float:
        """The loss of a decoder as it is, on a few crops of the test split."""
        crops = [x.to(self.subject.device) for x in self.crops(self.split("test"), "judge", _BEFORE)]
        losses = [float(self.loss(self.decoders[depth](self.latents(depth, x), x.shape[2:]), x)) for x in crops]
        return sum(losses) / len(losses)

    # --- judging ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def judge(self, items: int, watcher: Watcher) -> list[Judged]:
        """Every depth on the same crops of the test split."""
        self._seed_draws()
        crops = list(self.crops(self.split("test"), "judge", items))
        watcher.stage("judging", len(crops))
        measures = [measure.of for measure in self.medium.measures.values()]
        sums = {depth: torch.zeros(1 + len(measures), dtype=torch.float64) for depth in self.depths}
        for x in crops:
            x = x.to(self.subject.device)
            for depth, z in zip(self.depths, self.source.maps(x), strict=True):
                made = self.decoders[depth](z, x.shape[2:])
                found = [self.loss(made, x), *(measure(made, x)[0] for measure in measures)]
                sums[depth] += torch.stack(found).double().cpu() / len(crops)
            watcher.advance()
        return [self._judged(depth, sums[depth].tolist(), len(crops)) for depth in self.depths]

    def _judged(self, depth: int, found: Sequence[float], items: int) -> Judged:
        decoder = self.decoders[depth]
        axis = self.subject.encoder.geometry(depth)[-1]
        return Judged(
            depth, axis.hop, decoder.units, sum(p.numel() for p in decoder.parameters()), items,
            found[0], self.untrained_losses[depth], dict(zip(self.medium.measures, found[1:], strict=True)),
        )  # fmt: skip

    # --- asking -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, item: Item) -> tuple[Tensor, dict[int, Tensor]]:
        """An item ``(C, *grid)``, and what each depth makes of it."""
        self._seed_draws()
        x = item.input.unsqueeze(0)
        made = zip(self.depths, self.source.maps(x), strict=True)
        return item.input, {depth: self.decoded(depth, z, x.shape[2:]) for depth, z in made}

    @torch.no_grad()
    def sample(self, depth: int, count: int, draws: Draws) -> list[Tensor]:
        """`count` draws of latents, each frame and unit for itself, decoded: from N(0, I), or from the Gaussian fitted
        to each unit's features."""
        decoder = self.decoders[depth]
        generator = torch.Generator().manual_seed(derive_seed(self.options.seed, "decode sample", depth))
        made = []
        for _ in range(count):
            z = torch.randn(1, decoder.units, *decoder.frames(self.grid), generator=generator).to(self.subject.device)
            made.append(self.decoded(depth, decoder.unstandard(z) if draws == "fitted" else z, self.grid))
        return made

    @torch.no_grad()
    def interpolate(self, depth: int, first: Item, second: Item, count: int) -> list[Tensor]:
        """From one item to another in `count` equal steps in the latents, over what both are long."""
        self._seed_draws()
        one, other = (self.latents(depth, end.unsqueeze(0)) for end in ends_of(first, second))
        grid = shared_grid(*(item.input.unsqueeze(0) for item in (first, second)))
        shares = torch.linspace(0, 1, count).tolist()
        return [self.decoded(depth, (1 - share) * one + share * other, grid) for share in shares]

    @torch.no_grad()
    def traverse(self, depth: int, item: Item, unit: int, count: int) -> tuple[list[float], list[Tensor]]:
        """An item with one unit held at values from 3 deviations below its mean to 3 above: values, and what is made of
        them."""
        self._seed_draws()
        self.check_unit(unit, [depth])
        decoder = self.decoders[depth]
        x = item.input.unsqueeze(0)
        z = self.latents(depth, x)
        values = (decoder.mean[unit] + decoder.deviation[unit] * torch.linspace(-3, 3, count).to(z)).tolist()
        made = []
        for value in values:
            moved = z.clone()
            moved[:, unit] = value
            made.append(self.decoded(depth, moved, x.shape[2:]))
        return values, made

    def check_unit(self, unit: int, depths: Sequence[int]) -> None:
        """Raise `UsageError` where one of the depths has no such dimension."""
        maps = self.subject.maps()
        for depth in depths:
            units = maps[depth].channels
            if not 0 <= unit < units:
                raise UsageError(
                    f"--traverse {unit}: depth {depth} has no such dimension", f"it has {units:,}: 0 to {units - 1:,}"
                )

    def _seed_draws(self) -> None:
        """For encoders whose evaluation draws from a Gaussian."""
        torch.manual_seed(derive_seed(self.options.seed, "decode draws"))

    def decoded(self, depth: int, z: Tensor, grid: Sequence[int]) -> Tensor:
        """A depth's map ``(1, C', *grid')`` to an input ``(C, *grid)``, on the CPU."""
        made: Tensor = self.decoders[depth](z, grid)[0].float().cpu()
        return made

    # --- data ---------------------------------------------------------------------------------------------------------

    def items(self, count: int) -> list[Item]:
        """The first whole items of the test split that can be read and that the encoder takes. Raises `DataError` where
        there is none."""
        found: list[Item] = []
        why = ""
        split = self.split("test")
        for index in range(len(split)):
            if len(found) == count:
                break
            try:
                found.append(self._taken(split[index, None]))
            except (CorruptItem, UsageError) as error:
                why = error.message
        if not found:
            raise DataError(f"decode: there is no item in the test split to decode: {why}", "choose other data")
        return found

    def item(self, name: str) -> Item:
        """An item of the test split by its number or its id. Raises `UsageError` where there is none, or where the
        encoder does not take it."""
        split = self.split("test")
        if name.isdecimal():
            if int(name) >= len(split):
                raise UsageError(f"there is no item {name} in the test split", f"items are 0 to {len(split) - 1}")
            return self._taken(split[int(name), None])
        for index in range(len(split)):
            try:
                item = split[index, None]
            except CorruptItem:
                continue
            if item.id == name:
                return self._taken(item)
        raise UsageError(f"there is no item {name!r} in the test split", f"give a number from 0 to {len(split) - 1}")

    def _taken(self, item: Item) -> Item:
        """The whole item, if the encoder takes it: a sound may be shorter than what one frame of it sees."""
        try:
            self.subject.encoder.prepare(item.input.unsqueeze(0).to(self.subject.device))
        except InfomaxError as error:
            raise UsageError(f"item {item.id}: {error.message}", "choose another item") from error
        return item

    def split(self, name: str) -> Split:
        """A split of the subject's data. Raises `DataError` where it is empty."""
        split = self.subject.split(name)
        if not len(split):
            raise DataError(f"decode: the split {name} is empty", "choose other data")
        return split

    def crops(self, split: Split, purpose: str, count: int) -> Iterator[Tensor]:
        """Crops ``(1, C, *grid)`` of so many items spread over the split, each drawn by a seed of its own."""
        count = min(count, len(split))
        chosen = [place * len(split) // count for place in range(count)]
        for index in chosen:
            yield split[index, derive_seed(self.options.seed, purpose, index)].input.unsqueeze(0)


def ends_of(first: Item, second: Item) -> tuple[Tensor, Tensor]:
    """Two items ``(C, *grid)``, as far as both reach."""
    one, other = (item.input.unsqueeze(0) for item in (first, second))
    grid = shared_grid(one, other)
    return cropped(one, grid)[0], cropped(other, grid)[0]


def shared_grid(one: Tensor, other: Tensor) -> tuple[int, ...]:
    """As far as both reach, along every axis."""
    return tuple(min(sizes) for sizes in zip(one.shape[2:], other.shape[2:], strict=True))


def cropped(x: Tensor, grid: Sequence[int]) -> Tensor:
    """The beginning of ``(B, C, *grid)``, along every axis."""
    for axis, size in enumerate(grid, 2):
        x = x.narrow(axis, 0, size)
    return x
