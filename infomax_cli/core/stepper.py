"""One optimizer a block, with scaling and clipping of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infomax_cli.core.device import gradient_scaler
from infomax_cli.recipe import TrainOptions

_FUSED = ("cpu", "cuda", "mps")


class Stepper:
    """An optimizer with its own scaling and clipping, so that no other's step depends on it."""

    def __init__(self, parameters: Sequence[nn.Parameter], options: TrainOptions, device: torch.device) -> None:
        self.parameters = list(parameters)
        self.clip = options.clip
        self.optimizer = _optimizer(self.parameters, options, fused=device.type in _FUSED)
        self.scaler = gradient_scaler(device, options.amp)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> None:
        if all(parameter.grad is None for parameter in self.parameters):
            return  # a loss may have had no term, such as a prior where there is no posterior
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises `ValueError` where the state is not of these parameters: a fused optimizer would write where it may
        not."""
        for place, moments in state["optimizer"]["state"].items():
            for name, value in moments.items():
                fits = not isinstance(value, Tensor) or name == "step" or value.shape == self.parameters[place].shape
                if not fits or (isinstance(value, Tensor) and not value.is_floating_point()):
                    raise ValueError(f"the optimizer's {name} is not of its parameter's shape or type")
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _optimizer(parameters: list[nn.Parameter], options: TrainOptions, *, fused: bool) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay, "fused": fused}
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=options.momentum, **common)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, betas=(options.betas[0], options.betas[1]), eps=options.eps, **common)
