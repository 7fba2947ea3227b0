"""Decoders for the depths of a frozen encoder: trained, judged, and asked what latents sound like.

A decoder belongs to a run and a depth, and lies in ``RUN/decode/depthK/``. It is trained on crops of the training split
and judged on crops of the test split; nothing of the encoder moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from infomax_cli.core.api import DataError, InfomaxError, Item, Split, UsageError, derive_seed
from infomax_cli.core.decoders import Decoder, check_writable, decoder_file, load_decoder, save_decoder
from infomax_cli.core.features import FrozenEncoder
from infomax_cli.core.reconstruction import cepstral_distortion, make_loss, mel_error
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
    """How decoders are trained: `loss` by name (see `reconstruction`), `steps` of `batch` crops, Adam at `lr`."""

    loss: str = "stft"
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
    """How well a depth is decoded, over `items` crops of the test split: errors are means over items, in decibels, and
    `loss` what the decoder was trained to make small, beside that of decoders before training."""

    depth: int
    hop_ms: float
    units: int
    parameters: int
    items: int
    loss: float
    untrained_loss: float
    mel_error: float
    cepstral_distortion: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Decoding:
    """Decoders of some `depths` of a subject. Raises `UsageError` where its data is no sound of one channel."""

    def __init__(self, subject: Subject, depths: Sequence[int], options: DecodeOptions) -> None:
        data = subject.data
        if data.axes != ("time",) or data.rate is None or data.channels != 1:
            raise UsageError("decode: the data is not sound of one channel", "decoders are made for sound so far")
        self.subject, self.depths, self.options = subject, tuple(depths), options
        self.rate = data.rate
        self.length = data.grid[0]
        self.source = FrozenEncoder(subject.encoder, subject.recipe.sampling, subject.device, self.depths)
        self.loss = make_loss(options.loss, self.rate)
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
        return {**asdict(self.options), "encoder": encoder}

    def _fresh(self, depth: int) -> Decoder:
        encoder, options = self.subject.encoder, self.options
        torch.manual_seed(derive_seed(options.seed, "decoder", depth))
        axes = [encoder.geometry(stage)[0] for stage in range(-1, depth + 1)]
        units = self._map(depth, torch.zeros(1, 1, self.length)).shape[1]
        return Decoder(axes, units, width=options.width).to(self.subject.device)

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
            loss = self.loss(decoder(self._map(depth, x), x.shape[-1]), x)
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

    def _map(self, depth: int, x: Tensor) -> Tensor:
        return self.source.maps(x)[self.depths.index(depth)]

    @torch.no_grad()
    def _standardise(self, depth: int, split: Split) -> None:
        """Take the mean and deviation of every unit over some training crops."""
        sums = []
        for x in self.crops(split, "standardise", _FITTED):
            frames = self._map(depth, x)[0].double().cpu()
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
        losses = [float(self.loss(self.decoders[depth](self._map(depth, x), x.shape[-1]), x)) for x in crops]
        return sum(losses) / len(losses)

    # --- judging ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def judge(self, items: int, watcher: Watcher) -> list[Judged]:
        """Every depth on the same crops of the test split."""
        self._seed_draws()
        crops = list(self.crops(self.split("test"), "judge", items))
        watcher.stage("judging", len(crops))
        sums = {depth: torch.zeros(3, dtype=torch.float64) for depth in self.depths}
        for x in crops:
            x = x.to(self.subject.device)
            for depth, z in zip(self.depths, self.source.maps(x), strict=True):
                made = self.decoders[depth](z, x.shape[-1])
                errors = (self.loss(made, x), mel_error(made, x, self.rate)[0],
                          cepstral_distortion(made, x, self.rate)[0])  # fmt: skip
                sums[depth] += torch.stack(errors).double().cpu() / len(crops)
            watcher.advance()
        return [self._judged(depth, sums[depth].tolist(), len(crops)) for depth in self.depths]

    def _judged(self, depth: int, errors: Sequence[float], items: int) -> Judged:
        decoder = self.decoders[depth]
        (axis,) = self.subject.encoder.geometry(depth)
        return Judged(
            depth, 1000 * axis.hop / self.rate, len(decoder.mean), sum(p.numel() for p in decoder.parameters()), items,
            errors[0], self.untrained_losses[depth], errors[1], errors[2],
        )  # fmt: skip

    # --- asking -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, item: Item) -> tuple[Tensor, dict[int, Tensor]]:
        """An item ``(T,)``, and what each depth makes of it."""
        self._seed_draws()
        x = item.input.unsqueeze(0)
        made = zip(self.depths, self.source.maps(x), strict=True)
        return x[0, 0], {depth: self.sound(depth, z, x.shape[-1]) for depth, z in made}

    @torch.no_grad()
    def sample(self, depth: int, count: int, draws: Draws) -> list[Tensor]:
        """`count` draws of latents, each frame and unit for itself, decoded: from N(0, I), or from the Gaussian fitted
        to each unit's features."""
        decoder = self.decoders[depth]
        generator = torch.Generator().manual_seed(derive_seed(self.options.seed, "decode sample", depth))
        sounds = []
        for _ in range(count):
            z = torch.randn(1, len(decoder.mean), decoder.frames(self.length), generator=generator)
            z = z.to(self.subject.device)
            if draws == "fitted":
                z = decoder.mean[:, None] + decoder.deviation[:, None] * z
            sounds.append(self.sound(depth, z, self.length))
        return sounds

    @torch.no_grad()
    def interpolate(self, depth: int, first: Item, second: Item, count: int) -> list[Tensor]:
        """From one item to another in `count` equal steps in the latents, over what both are long."""
        self._seed_draws()
        length = min(first.input.shape[-1], second.input.shape[-1])
        one, other = (self.latents(depth, item.input[..., :length]) for item in (first, second))
        shares = torch.linspace(0, 1, count).tolist()
        return [self.sound(depth, (1 - share) * one + share * other, length) for share in shares]

    @torch.no_grad()
    def traverse(self, depth: int, item: Item, unit: int, count: int) -> tuple[list[float], list[Tensor]]:
        """An item with one unit held at values from 3 deviations below its mean to 3 above: values, and sounds."""
        self._seed_draws()
        decoder = self.decoders[depth]
        if not 0 <= unit < len(decoder.mean):
            raise UsageError(f"--traverse {unit}: depth {depth} has dimensions 0 to {len(decoder.mean) - 1}")
        z, length = self.latents(depth, item.input), item.input.shape[-1]
        values = (decoder.mean[unit] + decoder.deviation[unit] * torch.linspace(-3, 3, count).to(z)).tolist()
        sounds = []
        for value in values:
            moved = z.clone()
            moved[:, unit] = value
            sounds.append(self.sound(depth, moved, length))
        return values, sounds

    def _seed_draws(self) -> None:
        """For encoders whose evaluation draws from a Gaussian."""
        torch.manual_seed(derive_seed(self.options.seed, "decode draws"))

    def latents(self, depth: int, x: Tensor) -> Tensor:
        """An input ``(1, T)`` to the depth's map ``(1, C, T')``."""
        return self._map(depth, x.unsqueeze(0))

    def sound(self, depth: int, z: Tensor, length: int) -> Tensor:
        """A depth's map ``(1, C, T')`` to samples ``(length,)``, on the CPU."""
        sound: Tensor = self.decoders[depth](z, length)[0, 0].float().cpu()
        return sound

    # --- data ---------------------------------------------------------------------------------------------------------

    def items(self, count: int) -> list[Item]:
        """The first whole items of the test split that can be read."""
        found: list[Item] = []
        split = self.split("test")
        for index in range(len(split)):
            if len(found) == count:
                break
            try:
                found.append(split[index, None])
            except CorruptItem:
                continue
        return found

    def item(self, name: str) -> Item:
        """An item of the test split by its number or its id."""
        split = self.split("test")
        if name.isdecimal():
            if int(name) >= len(split):
                raise UsageError(f"there is no item {name} in the test split", f"items are 0 to {len(split) - 1}")
            return split[int(name), None]
        for index in range(len(split)):
            try:
                item = split[index, None]
            except CorruptItem:
                continue
            if item.id == name:
                return item
        raise UsageError(f"there is no item {name!r} in the test split", f"give a number from 0 to {len(split) - 1}")

    def split(self, name: str) -> Split:
        """A split of the subject's data. Raises `DataError` where it is empty."""
        split = self.subject.dataset.split(self.subject.root, name)
        if not len(split):
            raise DataError(f"decode: the split {name} is empty", "choose other data")
        return split

    def crops(self, split: Split, purpose: str, count: int) -> Iterator[Tensor]:
        """Crops ``(1, 1, T)`` of so many items spread over the split, each drawn by a seed of its own."""
        count = min(count, len(split))
        chosen = [place * len(split) // count for place in range(count)]
        for index in chosen:
            yield split[index, derive_seed(self.options.seed, purpose, index)].input.unsqueeze(0)
