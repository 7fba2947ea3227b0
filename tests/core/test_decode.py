"""Decoders of a run: they learn, they are kept, and what is asked of them is repeatable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import tiny
from infomax_cli.core.blocks import module_of
from infomax_cli.core.decode import DecodeOptions, Decoding
from infomax_cli.core.subject import Subject, load_subject
from infomax_cli.core.watcher import Nobody
from infomax_cli.errors import UsageError
from infomax_cli.runs import Run

OPTIONS = DecodeOptions(steps=6, batch=4, width=8, loss="mse")


def trained(subject: Subject, run: Run, depths: list[int], options: DecodeOptions = OPTIONS) -> Decoding:
    decoding = Decoding(subject, depths, options)
    decoding.load_or_train(run, Nobody(), lambda step, losses: None)
    return decoding


def test_error_falls_with_training_and_the_encoder_stays(subject: Subject, run: Run) -> None:
    before = {name: tensor.clone() for name, tensor in module_of(subject.encoder).state_dict().items()}
    told: list[tuple[int, str]] = []
    decoding = Decoding(subject, [0, 4], dataclasses.replace(OPTIONS, steps=60, lr=3e-3))
    assert decoding.load_or_train(run, Nobody(), lambda step, losses: told.append((step, *losses))) == [0, 4]
    for judged in decoding.judge(16, Nobody()):
        assert judged.loss < 0.9 * judged.untrained_loss
        assert judged.measures["mel_error"] > 0
        assert judged.measures["cepstral_distortion"] > 0
    assert told == [(step, f"decode/depth{depth}/loss") for depth in (0, 4) for step in (50, 60)]
    torch.testing.assert_close(module_of(subject.encoder).state_dict(), before, rtol=0, atol=0)


def test_a_decoder_is_kept_until_something_else_is_asked_for(subject: Subject, run: Run) -> None:
    first = trained(subject, run, [1])
    again = Decoding(subject, [1], OPTIONS)
    assert again.load_or_train(run, Nobody(), lambda step, losses: None) == []
    torch.testing.assert_close(again.decoders[1].state_dict(), first.decoders[1].state_dict(), rtol=0, atol=0)
    other = Decoding(subject, [1], dataclasses.replace(OPTIONS, loss="mse+stft"))
    assert other.load_or_train(run, Nobody(), lambda step, losses: None) == [1]
    assert Decoding(subject, [1], OPTIONS).load_or_train(run, Nobody(), lambda step, losses: None) == []  # still there


def test_an_interruption_costs_no_decoder_that_was_trained(subject: Subject, run: Run) -> None:
    class Impatient(Nobody):
        def stage(self, what: str, total: int) -> None:
            if what.endswith("depth 1"):
                raise KeyboardInterrupt

    options = dataclasses.replace(OPTIONS, seed=3)
    with pytest.raises(KeyboardInterrupt):
        Decoding(subject, [0, 1], options).load_or_train(run, Impatient(), lambda step, losses: None)
    assert Decoding(subject, [0, 1], options).load_or_train(run, Nobody(), lambda step, losses: None) == [1]


def test_the_same_seed_makes_the_same_decoder_whatever_other_depths_there_are(subject: Subject, run: Run) -> None:
    alone = trained(subject, run, [2]).decoders[2]
    (file,) = (run.path / "decode" / "depth2").glob("*.safetensors")
    file.unlink()
    beside = trained(subject, run, [0, 2, 5]).decoders[2]
    torch.testing.assert_close(beside.state_dict(), alone.state_dict(), rtol=0, atol=0)


def test_decoders_learn_from_draws_and_are_asked_with_means(here: Path) -> None:
    variational = ("encoder.variational=[1]", "cut=[1]", "loss=[{name: infonce, steps: 3, negatives: 4}, {name: kl}]")
    _, run = tiny.train(here, *variational, "train.steps=2", "encoder.norm=batch")
    subject = load_subject(run, tiny.CPU)
    gaussian = cast(Any, subject.encoder.stages[1])
    with torch.no_grad():  # a posterior as wide as the standard normal
        for name, parameter in gaussian.named_parameters():
            if "logvar" in name:
                parameter.zero_()
    decoding = trained(subject, run, [1])
    x = next(decoding.crops(decoding.split("test"), "any", 1))
    assert torch.equal(decoding.latents(1, x), decoding.latents(1, x))
    means = decoding.latents(1, x)[0].std(1)
    assert (decoding.decoders[1].deviation > 0.9).all()
    assert not (means > 0.9).all()


def test_units_are_standardised_over_training_crops(subject: Subject, run: Run) -> None:
    decoder = trained(subject, run, [3]).decoders[3]
    split = subject.dataset.split(subject.root, "train")
    maps = Decoding(subject, [3], OPTIONS).drawn.maps  # draws: two stages of this run are Gaussians
    frames = torch.cat([maps(split[i, i].input.unsqueeze(0))[0][0] for i in range(len(split))], dim=1)
    torch.testing.assert_close(decoder.mean, frames.mean(1), atol=0.2 * float(frames.std()), rtol=0.2)


def test_draws_are_repeatable_and_fitted_ones_have_the_features_moments(subject: Subject, run: Run) -> None:
    decoding = trained(subject, run, [4])
    one, other = decoding.sample(4, 2, "prior"), decoding.sample(4, 2, "prior")
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(one[0], one[1])
    assert one[0].shape == (1, 3200)
    decoder = decoding.decoders[4]
    seen: list[torch.Tensor] = []
    handle = decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    decoding.sample(4, 40, "fitted")
    handle.remove()
    z = torch.cat(seen, dim=2)[0]
    torch.testing.assert_close(z.mean(1), decoder.mean, atol=0.2 * float(decoder.deviation.max()), rtol=0.2)
    torch.testing.assert_close(z.std(1), decoder.deviation, atol=0.0, rtol=0.15)


def test_a_walk_begins_and_ends_at_the_reconstructions(subject: Subject, run: Run) -> None:
    decoding = trained(subject, run, [4])
    first, second = decoding.item("0"), decoding.item("1")
    walk = decoding.interpolate(4, first, second, 3)
    length = min(first.input.shape[-1], second.input.shape[-1])
    ends = [decoding.reconstruct(dataclasses.replace(i, input=i.input[:, :length]))[1][4] for i in (first, second)]
    torch.testing.assert_close([walk[0], walk[-1]], ends)
    assert not torch.equal(walk[1], walk[0])


def test_a_sweep_moves_one_dimension_from_below_its_mean_to_above(subject: Subject, run: Run) -> None:
    decoding = trained(subject, run, [4])
    values, sounds = decoding.traverse(4, decoding.item("0"), 2, 5)
    decoder = decoding.decoders[4]
    assert values[0] == pytest.approx(float(decoder.mean[2] - 3 * decoder.deviation[2]), rel=1e-4)
    assert values[2] == pytest.approx(float(decoder.mean[2]), rel=1e-4)
    assert len(sounds) == 5
    assert not torch.equal(sounds[0], sounds[-1])
    with pytest.raises(UsageError, match="depth 4 has no such dimension"):
        decoding.traverse(4, decoding.item("0"), 6, 5)


def test_items_are_found_by_number_and_by_id(subject: Subject) -> None:
    decoding = Decoding(subject, [0], OPTIONS)
    item = decoding.item("3")
    assert decoding.item(item.id).id == item.id
    with pytest.raises(UsageError, match="there is no item 99999 in the test split"):
        decoding.item("99999")
    with pytest.raises(UsageError, match="there is no item 'nobody'"):
        decoding.item("nobody")


@pytest.mark.parametrize("options", [{"steps": 0}, {"batch": 0}, {"width": 0}, {"lr": 0.0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        DecodeOptions(**options)  # type: ignore[arg-type]
