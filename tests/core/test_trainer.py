"""The loop: what a step is, and what no block may do to another."""

from __future__ import annotations

import gc
import json
import traceback
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from infomax_cli.core import blocks
from infomax_cli.core.api import Batch, DataSpec, Item, LabelSpec
from infomax_cli.core.blocks import Block
from infomax_cli.core.checkpoint import load_checkpoint, save_checkpoint
from infomax_cli.core.trained_blocks import describe_blocks_trained
from infomax_cli.core.trainer import Trainer
from infomax_cli.errors import CheckpointError, DataError, Diverged, PluginError
from infomax_cli.runs import new_run

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("cut=[1,3]", "train.accumulate=2", "train.clip=0.5"),
        ("cut=none", "train.optimizer=sgd"),
        ("loss=[{name: infonce, steps: 3, negatives: 4}, {name: supervised, label: speaker, detach: true}]",),
    ],
)
def test_training_block_by_block_equals_one_backward_of_the_summed_loss(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    immediate, _ = tiny.train(tmp_path, "train.steps=4", *overrides)

    def train_on(self: Trainer, batch: Any, part: int) -> None:
        """All blocks are run, their losses summed, and only then is anything sent back and stepped."""
        inputs, losses = self._prepare(batch), []
        for block in self.blocks:
            self._seed("train", self.step * self.options.accumulate + part, block)
            output = block(inputs, batch)
            losses += [loss for loss in (output.total, output.monitored) if loss is not None]
            inputs = output.outputs
        (torch.stack(losses).sum() / self.options.accumulate).backward()
        if part == self.options.accumulate - 1:
            for stepper in self.steppers.values():
                stepper.step(self._rate(self.step))

    monkeypatch.setattr(Trainer, "train_on", train_on)
    monkeypatch.setattr(Trainer, "_log", lambda *_: None)
    summed, _ = tiny.train(tmp_path, "train.steps=4", *overrides)
    assert tiny.same(tiny.encoder_weights(immediate), tiny.encoder_weights(summed))
    for one, other in zip(immediate.blocks, summed.blocks, strict=True):
        assert tiny.same(one.losses.state_dict(), other.losses.state_dict())


@pytest.mark.parametrize(
    ("overrides", "factor"),
    [
        (("train.amp=fp16",), 1e30),  # overflows in the gradients of block 1 alone: its step is skipped
        (("train.amp=fp16", "train.clip=1.0"), 1e30),
        (("train.clip=1.0",), 1e6),
    ],
)
def test_what_befalls_one_block_never_changes_another_s_step(
    overrides: tuple[str, ...], factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, fragile=tiny.Fragile)
    runs = {}
    for value in (1.0, factor):
        made, _ = tiny.train(
            tmp_path, "train.steps=4", "train.lr=1e-3", f"loss={{name: fragile, call: 2, factor: {value}}}", *overrides
        )
        runs[value] = made
    usual, hit = runs[1.0], runs[factor]
    assert tiny.same(usual.blocks[0].state_dict(), hit.blocks[0].state_dict())
    assert tiny.same(usual.steppers["block0"].state(), hit.steppers["block0"].state())
    assert not tiny.same(usual.blocks[1].state_dict(), hit.blocks[1].state_dict())
    assert all(value.isfinite().all() for value in tiny.encoder_weights(hit).values())


def test_fp16_skips_the_step_of_an_overflow_and_lowers_that_block_s_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, fragile=tiny.Fragile)
    made, _ = tiny.train(tmp_path, "train.steps=3", "train.amp=fp16", "loss={name: fragile, call: 2, factor: 1e30}")
    scales = {name: stepper.scaler.get_scale() for name, stepper in made.steppers.items()}
    assert scales["block1"] == scales["block0"] / 2


def test_a_loss_that_is_not_finite_names_block_and_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, fragile=tiny.Fragile)
    made = tiny.trainer("loss={name: fragile, block: 2, call: 5}")
    run = new_run(tmp_path, "tiny")
    with pytest.raises(Diverged, match=r"^the loss fragile of block 2 is not finite at step 5$") as caught:
        made.train(run, tiny.Silent())
    assert "the checkpoint of step 3 is kept" in (caught.value.hint or "")
    state = load_checkpoint(run.last)
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["encoder"].values())


@pytest.mark.parametrize(("block", "total"), [(0, True), (5, False)])
def test_a_loss_not_finite_on_the_very_first_step_leaves_the_untrained_checkpoint(
    block: int, total: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, fragile=tiny.Fragile)
    # a weighted sum may overflow where its terms do not
    wrong = "weight: 3e38, factor: 1e30" if total else "factor: .inf"
    made = tiny.trainer(f"loss={{name: fragile, block: {block}, call: 1, {wrong}}}")
    run = new_run(tmp_path, "tiny")
    with pytest.raises(Diverged, match=f"of block {block} is not finite at step 1"):
        made.train(run, tiny.Silent())
    fresh = tiny.trainer(f"loss={{name: fragile, block: {block}, call: 1, {wrong}}}")
    assert tiny.same(load_checkpoint(run.last)["encoder"], tiny.encoder_weights(fresh))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the last step was finite; its gradient was not, and fp32 has no scaler that would have skipped it."""
    tiny.plant(monkeypatch, fragile=tiny.Fragile)
    made = tiny.trainer("loss={name: fragile, call: 4}", "train.steps=4", "train.save_every=1")
    monkeypatch.setattr(made, "_check_finite", lambda: None)
    run = new_run(tmp_path, "tiny")
    with pytest.raises(Diverged, match=r"the weight \S+ is no longer finite at step 4"):
        made.train(run, tiny.Silent())
    assert load_checkpoint(run.last)["step"] == 3


# --- memory and waiting ----------------------------------------------------------------------------------------------


def test_nothing_of_a_block_outlives_it_but_its_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a block begins, no tensor that an earlier one saved for its backward pass is alive."""
    saved: list[weakref.ref[Tensor]] = []
    seen = []
    forward = Block.forward

    def watched(self: Block, inputs: Any, batch: Any) -> Any:
        own = {id(parameter) for parameter in self.parameters()} | {id(x) for x in inputs}
        alive = [ref for ref in saved if ref() is not None]
        seen.append((self.index, len(alive)))
        saved.clear()

        def pack(x: Tensor) -> Tensor:
            kept = x.detach()  # an output that its own node kept would live for ever
            if id(x) not in own and not isinstance(x, torch.nn.Parameter):
                saved.append(weakref.ref(kept))
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            output = forward(self, inputs, batch)
        outputs = {output.outputs[0].untyped_storage().data_ptr()}
        saved[:] = [r for r in saved if (x := r()) is not None and x.untyped_storage().data_ptr() not in outputs]
        assert saved or not torch.is_grad_enabled()
        return output

    monkeypatch.setattr(Block, "forward", watched)
    gc.disable()  # it must die at once, not when the collector comes by
    try:
        tiny.train(tmp_path, "train.steps=2", "train.validate_every=9")
    finally:
        gc.enable()
    training = seen[: 2 * 6]
    assert [index for index, _ in training] == [0, 1, 2, 3, 4, 5] * 2
    assert {alive for _, alive in training} == {0}


class _Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device: reading a value, or a size that depends on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        if any(name.startswith(waits) for waits in self.NAMES):
            frames = [frame.name for frame in traceback.extract_stack()]
            if "_reach_of" not in frames:  # infonce draws where its window lies on the CPU, whatever the device
                self.met.append(f"{func} in {frames[-3:]}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("overrides", [(), ("train.clip=1.0", "train.accumulate=2"), ("train.optimizer=sgd",)])
def test_a_step_never_waits_for_the_device(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.trainer("train.steps=2", *overrides)
    monkeypatch.setattr(made, "_check_finite", lambda: None)  # every step on the CPU only
    waits = _Waits()
    train_on = made.train_on

    def watched(batch: Any, part: int) -> None:
        with waits:
            train_on(batch, part)

    monkeypatch.setattr(made, "train_on", watched)
    made.train(new_run(tmp_path, "tiny"), tiny.Silent())
    assert waits.met == []


# --- the step --------------------------------------------------------------------------------------------------------


def test_the_gradient_of_each_block_is_clipped_to_its_own_norm(tmp_path: Path) -> None:
    """Of plain gradient descent at a rate of 1 the step is the gradient."""
    sgd = ("train.optimizer=sgd", "train.momentum=0", "train.lr=1", "train.steps=1", "train.clip=1e-4")
    fresh = tiny.trainer(*sgd)
    before = [[p.detach().clone() for p in block.parameters()] for block in fresh.blocks]
    made, _ = tiny.train(tmp_path, *sgd)
    for block, old in zip(made.blocks, before, strict=True):
        moved = [(p.detach() - q).flatten() for p, q in zip(block.parameters(), old, strict=True)]
        assert float(torch.cat(moved).norm()) == pytest.approx(1e-4, rel=1e-2)


def test_the_rate_follows_warm_up_and_schedule(tmp_path: Path) -> None:
    made, run = tiny.train(tmp_path, "train.schedule=linear", "train.warmup=4", "train.log_every=1", "train.lr=1.0")
    rates = [rate for _, rate in tiny.scalars(run)["train/lr"]]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert {group["lr"] for stepper in made.steppers.values() for group in stepper.optimizer.param_groups} == {0.25}


def test_batches_that_are_accumulated_make_one_step_of_their_mean(tmp_path: Path) -> None:
    sgd = ("train.optimizer=sgd", "train.momentum=0", "train.lr=1", "train.steps=1", "cut=none", "encoder.cell=none")
    supervised = "loss={name: supervised, label: speaker}"  # whose loss is a mean over the items of a batch
    halves, _ = tiny.train(tmp_path, *sgd, supervised, "train.batch=4", "train.accumulate=2")
    whole = tiny.trainer(*sgd, supervised, "train.batch=8", "train.accumulate=1")
    parts = tiny.trainer(*sgd, supervised, "train.batch=4", "train.accumulate=2")._train_batches()
    first, second = next(parts), next(parts)
    labels = {name: torch.cat([first.labels[name], second.labels[name]]) for name in first.labels}
    whole.train_on(Batch((torch.cat([first.views[0], second.views[0]]),), labels, first.ids + second.ids), 0)
    for name, value in tiny.encoder_weights(whole).items():
        torch.testing.assert_close(tiny.encoder_weights(halves)[name], value)


def test_every_step_and_block_draws_for_itself_and_validation_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    forward = Block.forward

    def watched(self: Block, inputs: Any, batch: Any) -> Any:
        seeds[self.training].append((self.index, torch.initial_seed()))
        return forward(self, inputs, batch)

    monkeypatch.setattr(Block, "forward", watched)
    tiny.train(tmp_path, "train.accumulate=2", "train.steps=3", "train.validate_every=1")
    assert len(set(seeds[True])) == len({seed for _, seed in seeds[True]}) == 3 * 2 * 6
    once = len(seeds[False]) // 3
    assert seeds[False] == seeds[False][:once] * 3
    assert len(set(seeds[False])) == once == 3 * 6


# --- what is trained -------------------------------------------------------------------------------------------------


def test_training_one_block_leaves_all_others_as_they_were(tmp_path: Path) -> None:
    """Also the running statistics of their norms; those below run without a graph, those above not at all."""
    batchnorm = "encoder.norm=batch"
    _, joint = tiny.train(tmp_path, batchnorm)
    before = load_checkpoint(joint.last)["encoder"]
    alone, run = tiny.train(tmp_path, batchnorm, "train.block=2", source=joint)
    after = load_checkpoint(run.last)["encoder"]
    for name, value in before.items():
        assert tiny.same(value, after[name]) != name.startswith("stages.2."), name
    assert any("running_mean" in name and not name.startswith("stages.2") for name in before)
    assert list(alone.steppers) == ["block2"]
    assert [block.index for block in alone.blocks] == [0, 1, 2]
    held = {id(p) for group in alone.steppers["block2"].optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in alone.blocks[2].parameters()}
    assert all(p.grad is None for block in alone.blocks for p in block.parameters())
    metrics = {name for line in tiny.lines(run) for name in line if name != "step"}
    assert {name.split("/")[1] for name in metrics} == {"block2"}


def test_frozen_blocks_run_without_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.trainer("train.block=3", "train.steps=1", "train.validate_every=9")
    saved: list[int] = []
    begun = []
    forward = Block.forward

    def watched(self: Block, inputs: Any, batch: Any) -> Any:
        if self.training:
            begun.append((self.index, len(saved)))
        return forward(self, inputs, batch)

    def pack(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x.detach()

    monkeypatch.setattr(Block, "forward", watched)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        made.train(new_run(tmp_path, "tiny"), tiny.Silent())
    assert made.frozen == {0, 1, 2}
    assert begun == [(3, 0)]
    assert saved


def test_from_takes_the_weights_alone(tmp_path: Path) -> None:
    _, source = tiny.train(tmp_path)
    taken = tiny.trainer("cut=none", "loss={name: supervised, label: speaker}", "train.optimizer=sgd")
    taken.start_from(source)
    assert tiny.same(tiny.encoder_weights(taken), dict(load_checkpoint(source.last)["encoder"]))
    assert taken.step == 0
    assert all(not stepper.optimizer.state for stepper in taken.steppers.values())


def test_a_block_that_only_a_monitor_looks_at_is_not_trained(tmp_path: Path) -> None:
    """Under fp16 too, where an optimizer that has no gradient must not be asked to step."""
    overrides = ["loss={name: supervised, label: speaker, detach: true}", "encoder.norm=batch", "train.amp=fp16"]
    fresh = tiny.encoder_weights(tiny.trainer(*overrides))
    made, _ = tiny.train(tmp_path, *overrides, "train.weight_decay=0.1")
    assert tiny.same(fresh, tiny.encoder_weights(made))
    assert set(made.steppers) == {f"block{index}/monitors" for index in range(6)}
    before = tiny.trainer(*overrides).blocks[3].losses.state_dict()
    assert not tiny.same(before, made.blocks[3].losses.state_dict())
    rows = describe_blocks_trained(made.experiment)
    assert rows[0]["parameters"] == sum(p.numel() for p in made.blocks[0].losses.parameters())


def test_a_monitor_beside_a_loss_changes_nothing_of_it(tmp_path: Path) -> None:
    nce = "{name: infonce, steps: 3, negatives: 4}"
    alone, _ = tiny.train(tmp_path, f"loss={nce}")
    watched, run = tiny.train(tmp_path, f"loss=[{nce}, {{name: supervised, label: phone, detach: true}}]")
    assert tiny.same(tiny.encoder_weights(alone), tiny.encoder_weights(watched))
    assert "train/block4/supervised/accuracy" in tiny.lines(run)[0]


def test_a_loss_with_nothing_to_teach_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import toys

    tiny.plant(monkeypatch, kl=toys.StandardNormal)
    for amp in ("none", "fp16"):
        made, _ = tiny.train(tmp_path, "loss=kl", f"train.amp={amp}", "train.steps=2")
        assert tiny.same(tiny.encoder_weights(made), tiny.encoder_weights(tiny.trainer("loss=kl")))


def test_the_number_of_views_changes_neither_crops_nor_the_first_view() -> None:
    one, two = (next(tiny.trainer(f"views={{count: {n}, augment: [noise, gain]}}")._train_batches()) for n in (1, 2))
    assert one.ids == two.ids
    assert torch.equal(one.views[0], two.views[0])
    assert not torch.equal(two.views[0], two.views[1])


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_metrics_hold_every_block_at_every_reading(tmp_path: Path) -> None:
    _, run = tiny.train(tmp_path)
    readings = [(line["step"], next(name for name in line if name != "step").split("/")[0]) for line in tiny.lines(run)]
    assert readings == [
        (2, "train"), (4, "train"), (5, "validation"), (6, "train"), (8, "train"), (8, "validation"),
    ]  # fmt: skip
    for line in tiny.lines(run):
        phase = next(name for name in line if name != "step").split("/")[0]
        measures = ("infonce", "infonce/accuracy", "infonce/bound")
        assert set(line) == {"step", *(f"{phase}/block{b}/{measure}" for b in range(6) for measure in measures)}


def test_tensorboard_shows_scalars_a_block_the_rate_sound_spectrogram_and_recipe(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made, run = tiny.train(tmp_path)
    events = EventAccumulator(str(run.path))
    events.Reload()
    tags = events.Tags()
    for name in [name for line in tiny.lines(run) for name in line if name != "step"]:
        assert name in tags["scalars"]
    assert "train/lr" in tags["scalars"]
    assert tags["audio"] == [f"batch/view0/{place}/audio" for place in range(4)]
    assert tags["images"] == [f"batch/view0/{place}/spectrogram" for place in range(4)]
    sound = events.Audio("batch/view0/0/audio")[0]
    assert (sound.sample_rate, sound.length_frames) == (16000, 3200)
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert made.experiment.recipe.to_yaml() in text


def test_the_encoder_is_exported_with_the_recipe_that_rebuilds_it(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    made, run = tiny.train(tmp_path)
    assert tiny.same(
        dict(sorted(load_file(run.encoder_file).items())), dict(sorted(tiny.encoder_weights(made).items()))
    )
    with safe_open(run.encoder_file, "pt") as file:
        assert json.loads(file.metadata()["recipe"]) == made.experiment.recipe.to_dict()


def test_older_checkpoints_are_kept_as_many_as_asked(tmp_path: Path) -> None:
    _, run = tiny.train(tmp_path, "train.keep=2", "train.save_every=2")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "last.pt",
        "step-00000006.pt",
        "step-00000008.pt",
    ]
    assert load_checkpoint(run.checkpoints / "step-00000006.pt")["step"] == 6


def test_where_files_cannot_be_linked_checkpoints_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    _, run = tiny.train(tmp_path, "train.keep=1")
    assert load_checkpoint(run.checkpoints / "step-00000008.pt")["step"] == 8


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fails", "kind", "told"),
    [
        ("corrupt", DataError, "cannot decode five.flac: it is truncated"),
        ("bug", PluginError, "the dataset cannot read its item 5: ZeroDivisionError: division by zero"),
        ("ragged", PluginError, r"the dataset's items do not make a batch \(tone-.*\(1, 3000\), \(1, 3200\)"),
    ],
)
def test_an_item_that_cannot_be_read_is_one_line_from_a_worker_too(
    workers: int, fails: str, kind: type[Exception], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, tones=tiny.Tones)
    made = tiny.trainer(f"data={{name: tones, fails: {fails}}}", f"train.workers={workers}")
    with pytest.raises(kind, match=told) as caught:
        made.train(new_run(tmp_path, "tiny"), tiny.Silent())
    assert len(str(caught.value).splitlines()) == 1
    if fails == "bug":
        assert "tests/tiny.py" in "".join(caught.value.__notes__)  # for INFOMAX_DEBUG


def test_a_worker_that_dies_is_a_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.plant(monkeypatch, tones=tiny.Tones)
    made = tiny.trainer("data={name: tones, fails: dies}", "train.workers=1")
    with pytest.raises(DataError, match="a loader process died: DataLoader worker"):
        made.train(new_run(tmp_path, "tiny"), tiny.Silent())


def test_without_a_validation_split_nothing_is_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.plant(monkeypatch, tones=tiny.Tones)
    _, run = tiny.train(tmp_path, "data=tones")
    assert not [name for line in tiny.lines(run) for name in line if name.startswith("validation")]


@pytest.mark.parametrize("batch", [1, 100])
def test_batches_of_one_and_larger_than_the_data(batch: int, tmp_path: Path) -> None:
    made, _ = tiny.train(tmp_path, f"train.batch={batch}", "train.steps=2")
    assert made.step == 2
    assert made.steps_per_epoch == (27 if batch == 1 else 1)


def test_epochs_end_the_run_where_their_batches_do(tmp_path: Path) -> None:
    assert tiny.trainer("train.epochs=3").total == 3 * (27 // 4)
    assert tiny.trainer("train.epochs=3", "train.accumulate=2").total == 3 * (27 // 4 // 2)


# --- the seed --------------------------------------------------------------------------------------------------------


def test_the_seed_alone_determines_a_run_whatever_the_workers(tmp_path: Path) -> None:
    _, run = tiny.train(tmp_path, "train.workers=0")
    for workers in (0, 1, 2):
        _, other = tiny.train(tmp_path, f"train.workers={workers}")
        tiny.assert_same_run(run, other)
    _, different = tiny.train(tmp_path, "train.seed=1")
    assert run.metrics.read_bytes() != different.metrics.read_bytes()


def test_validation_is_the_same_every_time(tmp_path: Path) -> None:
    """The rate is so low that nothing is learnt: what differs would be the draw."""
    _, run = tiny.train(tmp_path, "train.lr=1e-12", "train.validate_every=2")
    found = [
        {k: v for k, v in line.items() if k != "step"}
        for line in tiny.lines(run)
        if "validation/block0/infonce" in line
    ]
    assert len(found) == 4
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-6)


def test_an_item_that_cannot_be_read_loses_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learnt before it is saved, and the run can go on from there."""
    made = tiny.trainer("train.steps=6", "train.save_every=99")
    read, count = type(made.split).__getitem__, 0

    def failing(self: Any, key: tuple[int, int | None]) -> Any:
        nonlocal count
        count += 1
        if count > 4 * 4:
            raise DataError("too many recordings are corrupt")
        return read(self, key)

    run = new_run(tmp_path, "tiny")
    run.recipe_file.write_text(made.experiment.recipe.to_yaml())
    monkeypatch.setattr(type(made.split), "__getitem__", failing)
    with pytest.raises(DataError):
        made.train(run, tiny.Silent())
    assert load_checkpoint(run.last)["step"] == 4
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    again = tiny.trainer("train.steps=6", "train.save_every=99")
    again.resume(run)
    again.train(run, tiny.Silent())
    whole, _ = tiny.train(tmp_path, "train.steps=6", "train.save_every=99")
    assert tiny.same(tiny.encoder_weights(again), tiny.encoder_weights(whole))


@pytest.mark.parametrize("harm", ["shape", "type"])
def test_an_optimizer_s_state_of_other_parameters_is_refused(harm: str, tmp_path: Path) -> None:
    """A fused optimizer would write where it may not, and the process die without a word."""
    _, run = tiny.train(tmp_path, "train.steps=2")
    state = load_checkpoint(run.last)
    moments = state["steppers"]["block0"]["optimizer"]["state"][0]
    moments["exp_avg"] = moments["exp_avg"][:1] if harm == "shape" else moments["exp_avg"].long()
    del state["format"]
    save_checkpoint(run.last, state)
    with pytest.raises(CheckpointError, match="the optimizer's exp_avg is not of its parameter's shape or type"):
        tiny.trainer("train.steps=4").resume(run)


class Squares(tiny.Tones):
    """Noise as colour images."""

    def describe(self, root: Path) -> DataSpec:
        return DataSpec(3, (20, 20), ("height", "width"), None, {"speaker": LabelSpec(3)}, {"train": self.items})

    def split(self, root: Path, name: str) -> Any:
        class Split(tiny.TonesSplit):
            def __getitem__(self, key: tuple[int, int | None]) -> Item:
                item = super().__getitem__(key)
                return Item(item.input[0, :1200].view(3, 20, 20), {"speaker": item.labels["speaker"]}, item.id)

        return Split(self.items, self.fails)


def test_images_are_convolved_with_their_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And learn what they would have learnt with channels first."""
    import toys

    tiny.plant(monkeypatch, squares=Squares, picture=toys.ImageEncoder)
    overrides = ("data=squares", "encoder=picture", "loss={name: supervised, label: speaker}", "train.steps=3")
    seen = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: seen.append(_is_last(x, self.weight)) or forward(self, x))
    last, _ = tiny.train(tmp_path, *overrides)
    assert all(seen[3:])  # after the dry pass
    monkeypatch.setattr(blocks, "_channels_last", lambda x: x.contiguous())
    monkeypatch.setattr(nn.Module, "to", _to_but_for_the_layout)
    first, _ = tiny.train(tmp_path, *overrides)
    for name, value in tiny.encoder_weights(first).items():
        torch.testing.assert_close(tiny.encoder_weights(last)[name], value, rtol=1e-4, atol=1e-5)


def _is_last(*tensors: Tensor) -> bool:
    return all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)


_to = nn.Module.to


def _to_but_for_the_layout(self: nn.Module, *words: Any, memory_format: Any = None, **keys: Any) -> nn.Module:
    return _to(self, *words, **keys)


def test_a_batch_of_one_that_is_tried_first_changes_nothing() -> None:
    changes = ("encoder.norm=batch", "encoder.variational=[1]")
    tried, plain = (tiny.trainer(f"train.batch={batch}", *changes) for batch in (1, 2))
    assert tiny.same(tiny.encoder_weights(tried), tiny.encoder_weights(plain))
    assert any("running" in name for name in tiny.encoder_weights(tried))
