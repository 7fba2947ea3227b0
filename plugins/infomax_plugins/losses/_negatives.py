"""Where InfoNCE's negatives come from: the published samplings, as functions that draw rows.

A row counts the frames of a batch, item by item: row ``b * T + t`` is frame ``t`` of item ``b``. `times` ``(P,)`` are
the target frames, the same in every item, in which a prediction may end. All draw from torch's global generator on the
device of `times`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def target_rows(items: int, frames: int, times: Tensor) -> Tensor:
    """The rows of the targets themselves, ``(B, P)``."""
    return torch.arange(items, device=times.device)[:, None] * frames + times


def from_batch(items: int, frames: int, times: Tensor, count: int) -> Tensor:
    """From all frames of the batch: ``(B, P, N)``.

    Each of N sets is drawn without replacement; a target's negatives are the same whichever step predicts it. The
    target itself may be drawn, once in ``B * T`` times. Löwe et al. 2019, their sampling method 1.
    """
    drawn = [torch.randperm(items * frames, device=times.device)[: items * len(times)] for _ in range(count)]
    return torch.stack(drawn, dim=-1).view(items, len(times), count)


def from_sequence(items: int, frames: int, times: Tensor, count: int) -> Tensor:
    """From the target's own sequence: ``(B, P, N)``.

    N permutations of its frames, shared by all items; the target itself may be drawn, once in T times. Löwe et al.
    2019, their sampling method 2; Oord et al. 2018, table 2, "current sequence only".
    """
    drawn = [torch.randperm(frames, device=times.device)[: len(times)] for _ in range(count)]
    return target_rows(items, frames, torch.stack(drawn, dim=-1).flatten()).view(items, len(times), count)


def from_speaker(speakers: Tensor, frames: int, times: Tensor, count: int) -> Tensor:
    """From the items with the target's speaker: ``(B, P, N)``.

    An item, uniformly among those that share its speaker, by `speakers` ``(B,)``; then any of its frames but the one at
    the target's time, so that the target is never drawn. An item of unknown speaker (-1) shares it with itself only.
    Rivière et al. 2020 (CPC_audio), who draw each batch from one speaker.
    """
    items, targets = len(speakers), len(times)
    alike = (speakers[:, None] == speakers) & (speakers >= 0)
    alike |= torch.eye(items, dtype=torch.bool, device=speakers.device)
    item = torch.multinomial(alike.float(), targets * count, replacement=True).view(items, targets, count)
    shift = torch.randint(1, frames, (items, targets, count), device=times.device)
    return item * frames + (times[:, None] + shift) % frames


def from_other_targets(items: int, frames: int, times: Tensor, count: int) -> Tensor:
    """From the other targets of one step, never the target itself: ``(B, P, N)``.

    `times` are the targets of that step only. A random distance around the ring of all ``B * P`` of them. Löwe et al.
    2019, their sampling method 0.
    """
    rows = target_rows(items, frames, times)
    shift = torch.randint(1, rows.numel(), (*rows.shape, count), device=times.device)
    places = torch.arange(rows.numel(), device=times.device).view(*rows.shape, 1)
    return rows.flatten()[(places + shift) % rows.numel()]


def from_targets(items: int, frames: int, times: Tensor, count: int) -> Tensor:
    """From all targets of one step, with replacement: ``(B, P, N)``.

    `times` are the targets of that step only; the target itself may be drawn. Löwe et al. 2019, on images.
    """
    rows = target_rows(items, frames, times)
    return rows.flatten()[torch.randint(rows.numel(), (*rows.shape, count), device=times.device)]
