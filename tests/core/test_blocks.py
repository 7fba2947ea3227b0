from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toys
from infomax_cli.core.api import Batch, BlockSpec, DataSpec, LossOutput, PluginError
from infomax_cli.core.blocks import Block, check_ownership, cut_for_splits, describe_blocks, encode, partition
from infomax_cli.errors import InfomaxError
from infomax_cli.recipe import SamplingOptions

SPEECH_X = torch.randn(4, 1, 160, generator=torch.Generator().manual_seed(1))
IMAGES_X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
IMAGES_Y = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
CLASSES = torch.tensor([0, 1, 2, 3])

MakeLosses = Callable[[BlockSpec], dict[str, nn.Module]]


def make_blocks(
    encoder: Any, cut: Any, data: DataSpec, losses: MakeLosses, views: int = 1, sampling: SamplingOptions | None = None
) -> list[Block]:
    groups = partition(len(encoder.stages), cut)
    specs = describe_blocks(encoder, groups, data, views)
    built = [(spec, losses(spec)) for spec in specs]
    weights = {"predict": 1.0, "kl": 0.1, "local_global": 1.0, "classify": 1.0, "watch": 1.0}
    return [Block(encoder, spec, own, weights, sampling or SamplingOptions()) for spec, own in built]


# method: encoder, cut, data, losses, views
METHODS: dict[str, tuple[Callable[[], Any], Any, DataSpec, MakeLosses, tuple[Tensor, ...]]] = {
    "cpc": (toys.SpeechEncoder, "none", toys.SPEECH, lambda s: {"predict": toys.Predict(s)}, (SPEECH_X,)),
    "gim": (toys.SpeechEncoder, "each", toys.SPEECH, lambda s: {"predict": toys.Predict(s)}, (SPEECH_X,)),
    "vgim": (
        lambda: toys.SpeechEncoder(variational=True), [0, 2], toys.SPEECH,
        lambda s: {"predict": toys.Predict(s), "kl": toys.StandardNormal(s)}, (SPEECH_X,),
    ),
    "dim": (toys.ImageEncoder, "none", toys.IMAGES, lambda s: {"local_global": toys.LocalGlobal(s)}, (IMAGES_X,)),
    "folded dim": (
        toys.PatchEncoder, "none", toys.IMAGES, lambda s: {"local_global": toys.LocalGlobal(s)}, (IMAGES_X,),
    ),
    "amdim": (
        toys.ImageEncoder, "none", toys.IMAGES, lambda s: {"local_global": toys.LocalGlobal(s)}, (IMAGES_X, IMAGES_Y),
    ),
    "greedy amdim": (
        toys.ImageEncoder, "each", toys.IMAGES, lambda s: {"local_global": toys.LocalGlobal(s)}, (IMAGES_X, IMAGES_Y),
    ),
    "amdim cut once": (
        toys.ImageEncoder, [1], toys.IMAGES, lambda s: {"local_global": toys.LocalGlobal(s)}, (IMAGES_X, IMAGES_Y),
    ),
    "greedy supervised": (
        toys.ImageEncoder, [0], toys.IMAGES, lambda s: {"classify": toys.Classify(s)}, (IMAGES_X,),
    ),
    "patches with a pixelcnn": (
        lambda: toys.PatchEncoder(pixelcnn=True), "none", toys.IMAGES,
        lambda s: {"predict": toys.Predict(s)}, (IMAGES_X,),
    ),
    "greedy patches with a pixelcnn": (
        lambda: toys.PatchEncoder(pixelcnn=True), [0, 2], toys.IMAGES,
        lambda s: {"predict": toys.Predict(s)}, (IMAGES_X,),
    ),
}  # fmt: skip


def build(method: str) -> tuple[Any, list[Block], Batch]:
    make, cut, data, losses, views = METHODS[method]
    torch.manual_seed(0)
    encoder = make()
    blocks = make_blocks(encoder, cut, data, losses, views=len(views))
    labels = {"class": CLASSES} if data is toys.IMAGES else {"speaker": CLASSES % 3}
    return encoder, blocks, toys.batch_of(*views, **labels)


def gradients(blocks: list[Block]) -> list[dict[str, Tensor | None]]:
    return [{name: p.grad for name, p in block.named_parameters()} for block in blocks]


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_crosses_a_cut(method: str) -> None:
    """Loss i reaches every parameter of block i, and none of any other block."""
    for judged in range(len(build(method)[1])):
        encoder, blocks, batch = build(method)
        inputs = tuple(encoder.prepare(view) for view in batch.views)
        for block in blocks:
            output = block(inputs, batch)
            if block.index == judged:
                output.total.backward()
            inputs = output.outputs
        for block, grads in zip(blocks, gradients(blocks), strict=True):
            assert all((grad is not None) == (block.index == judged) for grad in grads.values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sampling", [SamplingOptions(), SamplingOptions(draws="independent", eval="sample")])
def test_no_gradient_crosses_a_cut_of_gaussians_sampled_or_not(sampling: SamplingOptions, training: bool) -> None:
    make, cut, data, losses, (x,) = METHODS["vgim"]
    encoder = make()
    blocks = make_blocks(encoder, cut, data, losses, sampling=sampling)
    inputs: tuple[Tensor, ...] = (encoder.prepare(x),)
    for block in blocks:
        output = block.train(training)(inputs, toys.batch_of(x))
        output.total.backward()
        for other, grads in zip(blocks, gradients(blocks), strict=True):
            assert all((grad is not None) == (other is block) for grad in grads.values())
        block.zero_grad(set_to_none=True)
        inputs = output.outputs


@pytest.mark.parametrize("method", METHODS)
def test_backward_per_block_equals_the_summed_loss_bit_for_bit(method: str) -> None:
    def run(immediate: bool) -> list[dict[str, Tensor | None]]:
        encoder, blocks, batch = build(method)
        inputs = tuple(encoder.prepare(view) for view in batch.views)
        totals = []
        for block in blocks:
            torch.manual_seed(block.index)
            output = block(inputs, batch)
            if immediate:
                output.total.backward()
            totals.append(output.total)
            inputs = output.outputs
        if not immediate:
            sum(totals[1:], totals[0]).backward()
        return gradients(blocks)

    for immediate, summed in zip(run(True), run(False), strict=True):
        assert all(torch.equal(grad, summed[name]) for name, grad in immediate.items())


@pytest.mark.parametrize("method", METHODS)
def test_what_a_loss_is_told_is_what_it_is_shown(method: str) -> None:
    encoder, blocks, batch = build(method)
    inputs = tuple(encoder.prepare(view) for view in batch.views)
    for block in blocks:
        for x in inputs:
            features = block._features(block._run(x))
            told = [(spec.channels, *spec.grid) for spec in block.spec.maps]
            assert [tuple(m.shape[1:]) for m in features.maps] == told
            assert features.target is features.maps[block.spec.target]
            assert len(features.posteriors) == len(block.spec.posteriors)
            assert (features.context is None) == (block.spec.context is None)
        inputs = block(inputs, batch).outputs


def test_outputs_of_a_block_carry_no_graph() -> None:
    encoder, blocks, batch = build("vgim")
    output = blocks[0]((encoder.prepare(SPEECH_X),), batch)
    assert all(x.grad_fn is None and not x.requires_grad for x in output.outputs)


def test_the_encoder_alone_owns_its_weights_whatever_the_cut() -> None:
    torch.manual_seed(0)
    encoder = toys.SpeechEncoder()
    keys = set(encoder.state_dict())
    for cut in ("none", "each", [1]):
        blocks = make_blocks(encoder, cut, toys.SPEECH, lambda s: {"predict": toys.Predict(s)})
        assert set(encoder.state_dict()) == keys
        borrowed = {id(p) for block in blocks for p in block.stages.parameters()}
        assert borrowed == {id(p) for p in encoder.parameters()}


def test_a_monitor_sends_nothing_back_and_stays_out_of_the_total() -> None:
    torch.manual_seed(0)
    encoder = toys.ImageEncoder()

    def losses(spec: BlockSpec) -> dict[str, nn.Module]:
        return {"local_global": toys.LocalGlobal(spec), "watch": toys.Classify(spec, detach=True)}

    (block,) = make_blocks(encoder, "none", toys.IMAGES, losses)
    output = block((encoder.prepare(IMAGES_X),), toys.batch_of(IMAGES_X, **{"class": CLASSES}))
    assert torch.equal(output.total, output.terms["local_global"])
    output.monitored.backward()
    assert all(p.grad is None for p in block.trained_parameters())
    assert all(p.grad is not None for p in block.monitor_parameters())
    assert "watch/accuracy" in output.watched


def test_a_loss_that_judges_only_the_input_of_its_block_is_refused() -> None:
    class OfTheInput(nn.Module):
        def forward(self, views: Any, batch: Batch) -> LossOutput:
            return LossOutput({"norm": views[0].maps[0].square().mean()})

    encoder = toys.SpeechEncoder()
    (block,) = make_blocks(encoder, "none", toys.SPEECH, lambda s: {"predict": OfTheInput()})
    with pytest.raises(InfomaxError, match="norm of loss predict depends on nothing that block 0 trains"):
        block((SPEECH_X,), toys.batch_of(SPEECH_X))


def test_a_gaussian_is_sampled_in_training_and_its_mean_taken_in_evaluation() -> None:
    encoder, blocks, batch = build("vgim")
    x = (encoder.prepare(SPEECH_X),)
    first, second = blocks[0](x, batch).outputs[0], blocks[0](x, batch).outputs[0]
    assert not torch.equal(first, second)
    blocks[0].eval()
    assert torch.equal(blocks[0](x, batch).outputs[0], encoder.stages[0](x[0]).mean)


def test_independent_draws_give_the_loss_two_samples_of_one_posterior() -> None:
    torch.manual_seed(0)
    encoder = toys.SpeechEncoder(variational=True)
    make = lambda s: {"predict": toys.Predict(s)}  # noqa: E731
    published = make_blocks(encoder, [0, 1, 2], toys.SPEECH, make, sampling=SamplingOptions(draws="independent"))[0]
    features = published._features(published._run(SPEECH_X))
    assert features.context is not None
    assert features.context.shape == features.target.shape
    assert not torch.equal(features.context, features.target)
    published.eval()
    assert published._features(published._run(SPEECH_X)).context is None


def test_evaluation_sees_every_depth_as_the_blocks_do() -> None:
    encoder, blocks, batch = build("vgim")
    inputs: tuple[Tensor, ...] = (encoder.prepare(SPEECH_X),)
    maps: list[Tensor] = []
    for block in blocks:
        block.eval()
        maps += block._run(inputs[0]).maps[1:]
        inputs = block(inputs, batch).outputs
    depths = encode(encoder, SPEECH_X, SamplingOptions())
    assert len(depths) == len(encoder.stages)
    assert all(torch.equal(a, b) for a, b in zip(depths, maps, strict=True))


def test_a_frozen_block_puts_out_the_same_without_a_graph() -> None:
    encoder, blocks, batch = build("gim")
    x = (encoder.prepare(SPEECH_X),)
    (frozen,) = blocks[0].advance(x)
    assert frozen.grad_fn is None
    assert torch.equal(frozen, blocks[0](x, batch).outputs[0])


@pytest.mark.parametrize(
    ("cut", "groups"),
    [
        ("none", ((0, 1, 2, 3),)),
        ("each", ((0,), (1,), (2,), (3,))),
        ([1], ((0, 1), (2, 3))),
        ([2, 0], ((0,), (1, 2), (3,))),
        ([], ((0, 1, 2, 3),)),
    ],
)
def test_a_cut_divides_the_row_after_the_stages_it_names(cut: Any, groups: Any) -> None:
    assert partition(4, cut) == groups


@pytest.mark.parametrize("cut", [[3], [-1], [0, 9]])
def test_a_cut_where_there_is_nothing_to_cut_is_refused(cut: list[int]) -> None:
    with pytest.raises(InfomaxError, match="nothing to cut"):
        partition(4, cut)


@pytest.mark.parametrize(
    ("splits", "sizes"), [(1, [6]), (2, [3, 3]), (4, [1, 1, 2, 2]), (5, [1, 1, 1, 1, 2]), (6, [1] * 6)]
)
def test_splits_give_their_surplus_to_the_last_groups(splits: int, sizes: list[int]) -> None:
    assert [len(group) for group in partition(6, cut_for_splits(6, splits))] == sizes


@pytest.mark.parametrize("splits", [0, 7])
def test_more_splits_than_stages_are_refused(splits: int) -> None:
    with pytest.raises(InfomaxError, match="6 stages"):
        cut_for_splits(6, splits)


def test_a_parameter_of_no_stage_or_of_two_is_refused() -> None:
    stray = toys.SpeechEncoder()
    stray.temperature = nn.Parameter(torch.ones(1))
    with pytest.raises(PluginError, match="temperature belongs to no stage"):
        check_ownership(stray)
    shared = toys.SpeechEncoder()
    shared.stages[2] = shared.stages[1]
    with pytest.raises(PluginError, match="stages 1 and 2 share"):
        check_ownership(shared)


def test_an_encoder_on_data_it_cannot_take_is_told_in_one_line() -> None:
    with pytest.raises(InfomaxError, match=r"SpeechEncoder cannot take this data's items of shape \(3, 16, 16\)"):
        describe_blocks(toys.SpeechEncoder(), ((0, 1, 2, 3),), toys.IMAGES, 1)
