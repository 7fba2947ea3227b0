"""The toolbox: where frames lie among samples, and how they meet aligned labels."""

from __future__ import annotations

import pytest
import torch

from infomax_cli.core.api import (
    Axis,
    Features,
    Gaussian,
    LabelSpec,
    derive_seed,
    order_by_seed,
    pool_to_labels,
    stop_gradient,
)

PHONES = LabelSpec(classes=41, hop=160, offset=200.0)

# the frames of Greedy InfoMax's convolutions, and of one more after them: hop, centre of frame 0
ENCODER_AXES = [(5, 2.5), (20, 10.0), (40, 0.0), (80, -20.0), (160, 20.0), (320, 100.0)]


def pool_by_loop(frames: torch.Tensor, axis: Axis, label: LabelSpec, count: int) -> torch.Tensor:
    assert label.hop is not None
    centres = [axis.centre + axis.hop * t for t in range(frames.shape[-1])]
    pooled = []
    for i in range(count):
        middle = label.offset + label.hop * i
        inside = [t for t, c in enumerate(centres) if middle - label.hop / 2 <= c < middle + label.hop / 2]
        if not inside:
            inside = [min(range(len(centres)), key=lambda t: abs(centres[t] - middle))]
        pooled.append(torch.stack([frames[..., t] for t in inside]).mean(0))
    return torch.stack(pooled, dim=-1)


@pytest.mark.parametrize(("hop", "centre"), ENCODER_AXES)
@pytest.mark.parametrize("surplus", [0, 4])
def test_pooling_to_labels_equals_the_loop(hop: int, centre: float, surplus: int) -> None:
    axis = Axis("time", hop=hop, centre=centre)
    samples = 3200
    # labels as Kaldi counts them, and some more of which the end of the map must do for the last
    count = 1 + (samples - 400) // 160 + surplus
    torch.manual_seed(0)
    frames = torch.randn(2, 3, samples // hop, dtype=torch.float64, requires_grad=True)
    same = frames.detach().clone().requires_grad_()
    weight = torch.randn(2, 3, count, dtype=torch.float64)

    pooled, expected = pool_to_labels(frames, axis, PHONES, count), pool_by_loop(same, axis, PHONES, count)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()

    assert pooled.shape == (2, 3, count)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(frames.grad, same.grad, rtol=0, atol=1e-12)


def test_labels_at_other_places_get_other_frames_though_as_many() -> None:
    frames = torch.arange(20.0).view(1, 1, 20)
    early = pool_to_labels(frames, Axis(hop=160, centre=20.0), PHONES, 18)
    late = pool_to_labels(frames, Axis(hop=160, centre=20.0), LabelSpec(41, hop=160, offset=360.0), 18)
    torch.testing.assert_close(late, early + 1)


def test_pooling_wants_an_aligned_label() -> None:
    with pytest.raises(ValueError, match="aligned"):
        pool_to_labels(torch.zeros(1, 1, 4), Axis(), LabelSpec(classes=3), 2)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(10, 5, 2), (8, 4, 0), (3, 1, 1), (1, 1, 0), (4, 2, 3)])
def test_an_axis_after_two_convolutions_says_which_samples_a_frame_sees(kernel: int, stride: int, padding: int) -> None:
    axis = Axis().convolve(4, 2, 1).convolve(kernel, stride, padding)
    convs = torch.nn.Sequential(
        torch.nn.Conv1d(1, 1, 4, 2, 1, bias=False), torch.nn.Conv1d(1, 1, kernel, stride, padding, bias=False)
    )
    for conv in convs:
        torch.nn.init.ones_(conv.weight)
    x = torch.zeros(1, 1, 200, requires_grad=True)
    t = 9  # far from both ends
    convs(x)[0, 0, t].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero().flatten()
    assert (seen[0] + seen[-1]) / 2 == axis.centre + axis.hop * t
    assert seen[-1] - seen[0] + 1 == axis.field


def test_an_axis_keeps_its_name() -> None:
    assert Axis("frequency").convolve(3).name == "frequency"


def test_stop_gradient_cuts_every_tensor_of_features_and_keeps_its_value() -> None:
    leaf = torch.ones(2, 3, 4, requires_grad=True)
    features = Features((leaf, leaf * 2), leaf * 2, leaf * 3, (Gaussian(leaf * 4, leaf * 5),))
    cut = stop_gradient(features)
    tensors = [*cut.maps, cut.target, cut.context, cut.posteriors[0].mean, cut.posteriors[0].logvar]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert [tensor[0, 0, 0].item() for tensor in tensors] == [1, 2, 2, 3, 4, 5]
    assert stop_gradient(Features((leaf,), leaf)).context is None


def test_names_are_ordered_by_their_seeds() -> None:
    names = [f"{number}-ü" for number in range(50)]
    assert order_by_seed(names, 3, "test") == sorted(names, key=lambda name: derive_seed(3, "test", ascii(name)))
    assert order_by_seed(["\udcff", "a"], 1) == sorted(["\udcff", "a"], key=lambda name: derive_seed(1, ascii(name)))
