"""How a probe is trained and scored: at its optimum, or as it was published, so that numbers can be laid side by side.

Where a published protocol has a defect that would change what is measured, the sound thing is done, and its docstring
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.classifiers import PARTS, Classifier, Fit, parts
from infomax_cli.core.features import Pool
from infomax_cli.core.heads import Head, make_head, squash_logits
from infomax_cli.core.rows import LARGE, Rows, distinct
from infomax_cli.core.seeds import derive_seed, torch_generator
from infomax_cli.errors import UsageError
from infomax_cli.wording import suggest


@dataclass(frozen=True, kw_only=True)
class AdamTraining:
    """A head on features as they are, trained by Adam on cross-entropy.

    A batch is of `batch` items with all of their rows. `order` of the items is drawn anew for each epoch, or as they
    come. `keep` the last weights, or those best on a sixth of the items, which is held out for it. The rate is
    multiplied by `factor` after each of the epochs `at`, and rises to itself in a line over the first `warmup` steps.
    Logits are clipped by a tanh at `clip`, and their mean square is added with weight `penalty`.
    """

    lr: float
    epochs: int
    batch: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    at: tuple[int, ...] = ()
    factor: float = 1.0
    warmup: int = 0
    clip: float | None = None
    penalty: float = 0.0
    init: Literal["default", "xavier"] = "default"
    order: Literal["shuffled", "as it is"] = "shuffled"
    keep: Literal["last", "best"] = "last"

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate in an epoch, at a step counted from the first epoch on; both from 0."""
        rising = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * rising * self.factor ** sum(epoch >= end for end in self.at)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """`aligned` and `whole` say how the classifier is trained for labels of either kind (None: at its optimum).

    `heads` are the classifiers that it has, the first where the command line does not say. `depth` and `pool` are what
    is probed there: with "vectors" the last map of several positions, and all that is made of it. With `crops` a
    whole-item label is read from one random crop an item, drawn anew for each epoch. `within_test` fits on that share
    of the test rows and scores on the others.
    """

    name: str
    says: str
    aligned: AdamTraining | None = None
    whole: AdamTraining | None = None
    heads: Mapping[Classifier, Head] = field(default_factory=lambda: {"linear": "linear"})
    depth: Literal["all", "last", "vectors"] = "last"
    pool: Pool = "mean"
    crops: bool = False
    within_test: float | None = None

    @property
    def is_optimum(self) -> bool:
        return self.aligned is None and self.whole is None and self.within_test is None

    @property
    def classifier(self) -> Classifier:
        """Where none is asked for."""
        return next(iter(self.heads))


_PHONES = AdamTraining(lr=1e-4, epochs=20, batch=1, init="xavier", order="as it is")
_DIM = AdamTraining(lr=1e-4, epochs=150, batch=64, betas=(0.5, 0.999), at=(50, 100), factor=0.1)
_AMDIM = AdamTraining(
    lr=2e-4,
    epochs=120,
    batch=200,
    betas=(0.8, 0.999),
    weight_decay=1e-5,
    at=(80, 110),
    factor=0.2,
    warmup=500,
    clip=10.0,
    penalty=1e-3,
)
_AMDIM_IMAGENET = replace(_AMDIM, epochs=30, batch=480, at=(15, 25))
_AMDIM_PLACES205 = replace(_AMDIM, epochs=15, batch=480, at=(7, 12))
_AMDIM_HEADS: Mapping[Classifier, Head] = {"linear": "linear", "mlp": "amdim"}
_GIM_VISION = AdamTraining(lr=1e-3, epochs=300, batch=32)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="optimum",
            says="the classifier at its optimum, its strength chosen on held-out training items",
            depth="all",
        ),
        Protocol(
            # The published test keeps full batches only, of one crop an utterance; here every item is scored. Labels
            # are aligned by geometry, where the published code keeps the last frames.
            name="gim",
            says="Löwe et al. 2019: phones: Adam 1e-4, 20 epochs, an utterance a step, in the order of the files; "
            "items: Adam 1e-3, 50 epochs, batches of 64, mean over a random crop an item and epoch",
            aligned=_PHONES,
            whole=AdamTraining(lr=1e-3, epochs=50, batch=64),
            crops=True,
        ),
        Protocol(
            name="vgim",
            says="Denoodt et al. (Smooth-InfoMax): items: Adam 1e-3, 50 epochs, batches of 64, mean over the item; "
            "phones as gim",
            aligned=_PHONES,
            whole=AdamTraining(lr=1e-3, epochs=50, batch=64),
        ),
        Protocol(
            # Published, the best epoch is chosen by the accuracy that is then reported; here by held-out training
            # items. The published batches are of 1.28 s windows, here of items.
            name="cpc-audio",
            says="Rivière et al. 2020 (CPC_audio): Adam 2e-4 (eps 2e-8), 10 epochs, batches of 8, the best epoch by "
            "held-out items; items by their last frame",
            aligned=AdamTraining(lr=2e-4, epochs=10, batch=8, eps=2e-8, keep="best"),
            whole=AdamTraining(lr=2e-4, epochs=10, batch=8, eps=2e-8, keep="best"),
            pool="last",
        ),
        Protocol(
            name="barello",
            says="CPCLibriSpeech: the last frame of every test item, scikit-learn's logistic regression fitted on a "
            "random tenth of them and scored on the others",
            pool="last",
            within_test=0.1,
        ),
        Protocol(
            # Published, it goes on to epoch 1000 at a hundredth of the rate, and the encoder's batch norm is not
            # frozen.
            name="dim",
            says="Hjelm et al. 2019 (DIM): 200 units with dropout and batch norm on the flattened map, on conv, fc and "
            "Y apart: Adam 1e-4, a tenth after epochs 50 and 100 of 150, batches of 64",
            aligned=_DIM,
            whole=_DIM,
            heads={"mlp": "dim", "linear": "linear"},
            depth="vectors",
            pool="flatten",
        ),
        Protocol(
            # Published, the heads are trained on augmented views, and the encoder's batch norm goes on learning, on
            # test images too; here the encoder is frozen and the features are those of evaluation.
            name="amdim",
            says="Bachman et al. 2019 (AMDIM): linear, or mlp with 1024 units: Adam 2e-4, a fifth after epochs 80 and "
            "110 of 120, batches of 200, logits clipped at 10; features without augmentation",
            aligned=_AMDIM,
            whole=_AMDIM,
            heads=_AMDIM_HEADS,
        ),
        Protocol(
            name="amdim-imagenet",
            says="as amdim, with its schedule for ImageNet: a fifth after epochs 15 and 25 of 30, batches of 480",
            aligned=_AMDIM_IMAGENET,
            whole=_AMDIM_IMAGENET,
            heads=_AMDIM_HEADS,
        ),
        Protocol(
            name="amdim-places205",
            says="as amdim, with its schedule for Places205: a fifth after epochs 7 and 12 of 15, batches of 480",
            aligned=_AMDIM_PLACES205,
            whole=_AMDIM_PLACES205,
            heads=_AMDIM_HEADS,
        ),
        Protocol(
            # Published, random crops and flips are encoded anew in each epoch.
            name="gim-vision",
            says="Löwe et al. 2019, images: the mean over the grid: Adam 1e-3, 300 epochs, batches of 32; features "
            "without augmentation",
            aligned=_GIM_VISION,
            whole=_GIM_VISION,
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Raises `UsageError` on an unknown name."""
    if name not in PROTOCOLS:
        raise UsageError(f"--protocol {name}: there is no such protocol", suggest(name, list(PROTOCOLS)))
    return PROTOCOLS[name]


class AdamProbe:
    """One head in training. Epochs come from outside, so that each may bring crops of its own."""

    def __init__(
        self, training: AdamTraining, rows: Rows, *, seed: int, device: torch.device, head: Head = "linear"
    ) -> None:
        self.training, self.seed, self.device = training, seed, device
        self.present, _ = distinct(rows.labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("probe", seed))
            self.head = make_head(head, rows.dims, len(self.present))
            if training.init == "xavier":
                for layer in self.head.modules():
                    if isinstance(layer, nn.Linear):
                        nn.init.xavier_normal_(layer.weight)
        self.head.to(device)
        self.optimizer = torch.optim.Adam(
            self.head.parameters(),
            lr=training.lr,
            betas=training.betas,
            eps=training.eps,
            weight_decay=training.weight_decay,
        )
        self.best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
        self.epochs = self.steps = 0

    def train_epoch(self, rows: Rows) -> None:
        """Once through the rows, item by item; keeps the weights where they are the best held-out ones so far."""
        part = parts(rows.items, PARTS, self.seed)
        out = part == 0 if self.training.keep == "best" else torch.zeros(len(rows), dtype=torch.bool)
        out = out if not out.all() else torch.zeros_like(out)
        learn = rows.where(~out)
        read, y = learn.reader(self.device), torch.searchsorted(self.present, learn.labels).to(self.device)
        self.head.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("probe dropout", self.seed, self.epochs))
            for batch in self._batches(learn.items):
                self._step(read(batch), y[batch])
        self.epochs += 1
        if out.any():
            held = rows.where(out)
            found = torch.cat([self._predict(part) for part in held.parts()])
            score = float((found == held.labels).double().mean())
            if score > self.best[0]:
                state = {name: tensor.clone() for name, tensor in self.head.state_dict().items()}
                self.best = (score, self.epochs, state)

    def _step(self, x: Tensor, y: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate(self.epochs, self.steps)
        logits = self.head(x)
        loss = F.cross_entropy(squash_logits(logits, self.training.clip), y)
        if self.training.penalty:
            loss = loss + self.training.penalty * logits.square().mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.steps += 1

    def finish(self) -> Fit:
        score, epoch, state = self.best
        if not state:
            return Fit(self._predict, {"epochs": float(self.epochs)})
        self.head.load_state_dict(state)
        return Fit(self._predict, {"epochs": float(epoch)}, score)

    def _batches(self, items: Tensor) -> list[Tensor]:
        """Row indices of `batch` items at a time."""
        unique, where = distinct(items)
        order = torch.arange(len(unique))
        if self.training.order == "shuffled":
            order = torch.randperm(len(unique), generator=torch_generator("probe order", self.seed, self.epochs))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(unique))
        batch = place[where] // self.training.batch
        return list(torch.split(batch.argsort(stable=True), batch.bincount().tolist()))

    def _predict(self, x: Tensor) -> Tensor:
        self.head.eval()
        with torch.no_grad():
            return self.present[self.head(x.to(self.device)).argmax(1).cpu()]


def fit_adam(
    training: AdamTraining,
    rows_of_epoch: Callable[[int], Sequence[Rows]],
    *,
    seed: int,
    device: torch.device,
    head: Head = "linear",
    advance: Callable[[], None] = lambda: None,
) -> list[Fit]:
    """A probe for every layer, all trained side by side on the rows that each epoch brings."""
    first = rows_of_epoch(0)
    probes = [AdamProbe(training, rows, seed=seed, device=device, head=head) for rows in first]
    for epoch in range(training.epochs):
        for probe, rows in zip(probes, first if epoch == 0 else rows_of_epoch(epoch), strict=True):
            probe.train_epoch(rows)
        advance()
    return [probe.finish() for probe in probes]


def fit_sklearn(rows: Rows, large: int = LARGE) -> Fit:
    """scikit-learn's logistic regression with its defaults (C = 1), on features as they are. It needs them all at once:
    beyond `large` values it learns from every second row, or third, or as many as it takes."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present, _ = distinct(rows.labels)
    if len(present) == 1:
        return Fit(lambda x: present.expand(len(x)), {"C": 1.0})
    model = LogisticRegression()
    places = torch.arange(0, len(rows), -(-rows.values // large))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(rows.take(places).numpy(), rows.labels[places].numpy())
    notes = []
    if len(places) < len(rows):
        notes.append(f"scikit-learn learnt from {len(places):,} of {len(rows):,} rows: more do not fit in memory")
    stopped = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    if stopped:
        notes.append("scikit-learn stopped short of the optimum, after its default of 100 steps")
    return Fit(lambda x: torch.from_numpy(model.predict(x.numpy())), {"C": 1.0}, None, tuple(notes))
