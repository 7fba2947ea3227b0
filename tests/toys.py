"""Small encoders and losses that stand for the methods the core must carry, and data specs to build them on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Axis, Batch, BlockSpec, DataSpec, Features, Gaussian, LabelSpec, LossOutput

SPEECH = DataSpec(1, (160,), ("time",), 16000, {"speaker": LabelSpec(3)}, {"train": 8})
IMAGES = DataSpec(3, (16, 16), ("height", "width"), None, {"class": LabelSpec(4)}, {"train": 8})


def batch_of(*views: Tensor, **labels: Tensor) -> Batch:
    return Batch(views, labels, tuple(str(i) for i in range(len(views[0]))))


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Recurrent(nn.Module):
    is_context = True

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, outputs, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.transpose(1, 2))[0].transpose(1, 2)


class Variational(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = Conv(inputs, outputs)
        self.mean, self.logvar = nn.Conv1d(outputs, outputs, 1), nn.Conv1d(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Gaussian:
        h = self.body(x)
        return Gaussian(self.mean(h), self.logvar(h))


class SpeechEncoder(nn.Module):
    """Greedy InfoMax's shape: convolutions and an autoregressor; with `variational`, V-GIM's."""

    def __init__(self, variational: bool = False) -> None:
        super().__init__()
        conv = Variational if variational else Conv
        self.stages = nn.ModuleList([conv(1, 6), conv(6, 6), conv(6, 6), Recurrent(6, 5)])

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        axis = Axis()
        for _ in range(min(stage, 2) + 1):
            axis = axis.convolve(4, 2, 1)
        return (axis,)


class ImageEncoder(nn.Module):
    """Strictly nested maps 7x7, 5x5 and 1x1, as AMDIM compares them."""

    def __init__(self) -> None:
        super().__init__()
        kernels = [(3, 4, 2), (8, 3, 1), (8, 5, 1)]
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(c, 8, k, s), nn.ReLU()) for c, k, s in kernels)

    def prepare(self, x: Tensor) -> Tensor:
        return x - 0.5

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        axes = [Axis("height"), Axis("width")]
        for kernel, stride in [(4, 2), (3, 1), (5, 1)][: stage + 1]:
            axes = [axis.convolve(kernel, stride) for axis in axes]
        return tuple(axes)


class PatchEncoder(nn.Module):
    """Crops of 8 at stride 4 become batch items; they are read out on their 3x3 grid, where a PixelCNN may look up."""

    SIDE = 3

    def __init__(self, pixelcnn: bool = False) -> None:
        super().__init__()
        stages: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()),
        ]
        if pixelcnn:
            stages += [Fold(self.SIDE), Upwards(8, 7)]
        self.stages = nn.ModuleList(stages)

    def prepare(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 8, 4).unfold(3, 8, 4)  # (B, 3, 3, 3, 8, 8)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return fold(y, self.SIDE) if stage < 2 else y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        return (Axis("height", 4, 3.5, 8), Axis("width", 4, 3.5, 8))


def fold(y: Tensor, side: int) -> Tensor:
    return y.mean((2, 3)).unflatten(0, (-1, side, side)).permute(0, 3, 1, 2)


class Fold(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, y: Tensor) -> Tensor:
        return fold(y, self.side)


class Upwards(nn.Module):
    """A one-layer PixelCNN: a row sees only the rows above it."""

    is_context = True

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (1, 3), padding=(0, 1))

    def forward(self, y: Tensor) -> Tensor:
        return self.conv(F.pad(y, (0, 0, 1, 0))[:, :, :-1])


# --- losses ----------------------------------------------------------------------------------------------------------


class Predict(nn.Module):
    """Tell the next frame (along the last axis) of one's own sequence from those of the others in the batch."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        source = spec.maps[spec.target if spec.context is None else spec.context]
        self.predictor = nn.Linear(source.channels, spec.maps[spec.target].channels, bias=False)

    def forward(self, views: tuple[Features, ...], batch: Batch) -> LossOutput:
        terms = []
        for view in views:
            context = view.target if view.context is None else view.context
            c = self.predictor(context.flatten(2)[..., :-1].transpose(1, 2))
            scores = torch.einsum("btc,nct->tbn", c, view.target.flatten(2)[..., 1:])
            terms.append(F.cross_entropy(scores.flatten(0, 1), torch.arange(len(c)).repeat(len(scores))))
        return LossOutput({"predict": torch.stack(terms).mean()})


class StandardNormal(nn.Module):
    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()

    def forward(self, views: tuple[Features, ...], batch: Batch) -> LossOutput:
        terms = [p.kl().mean() for view in views for p in view.posteriors]
        return LossOutput({"kl": torch.stack(terms).mean()} if terms else {})


class LocalGlobal(nn.Module):
    """Deep InfoMax: a local map against a global vector of another view (of the same one, where there is one)."""

    def __init__(self, spec: BlockSpec, local: int = 1) -> None:
        super().__init__()
        self.local = local
        self.critic = nn.Bilinear(spec.maps[local].channels, spec.output.channels, 1)

    def forward(self, views: tuple[Features, ...], batch: Batch) -> LossOutput:
        terms = []
        for a, b in zip(views, [*views[1:], views[0]], strict=True):
            local = a.maps[self.local].flatten(2).transpose(1, 2)  # (B, L, C)
            summary = b.output.flatten(2).mean(-1)  # (B, C)
            n, cells = local.shape[:2]
            left = local[None].expand(n, n, cells, -1).contiguous()
            right = summary[:, None, None].expand(n, n, cells, -1).contiguous()
            scores = self.critic(left, right).squeeze(-1)  # (global, local image, cell)
            terms.append(
                F.cross_entropy(scores.transpose(1, 2).flatten(0, 1), torch.arange(n).repeat_interleave(cells))
            )
        return LossOutput({"local_global": torch.stack(terms).mean()})


class Classify(nn.Module):
    def __init__(self, spec: BlockSpec, label: str = "class", detach: bool = False) -> None:
        super().__init__()
        self.label, self.monitor = label, detach
        self.head = nn.Linear(spec.output.channels, spec.data.labels[label].classes)

    def forward(self, views: tuple[Features, ...], batch: Batch) -> LossOutput:
        logits = self.head(views[0].output.flatten(2).mean(-1))
        right = (logits.argmax(1) == batch.labels[self.label]).float().mean()
        return LossOutput({"ce": F.cross_entropy(logits, batch.labels[self.label])}, {"accuracy": right})
