"""Stages that ``torch.compile`` makes faster, in such a way that it can never break a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from infomax_cli.wording import describe_error

_FORMS = 256


class CompiledStage:
    """A stage, compiled when it is first run; should that fail, then or later, the stage as it is.

    `tell` is called once, with the reason.
    """

    def __init__(self, stage: nn.Module, name: str, tell: Callable[[str], None]) -> None:
        self.stage, self.name, self.tell = stage, name, tell
        # draws from Gaussians and dropout are those of the stage as it is
        self._compiled: Callable[[Any], Any] | None = torch.compile(stage, options={"fallback_random": True})

    def __call__(self, x: Any) -> Any:
        if self._compiled is None:
            return self.stage(x)
        try:
            # the backward pass is compiled at once too, so that it fails here or nowhere; and stages of one class count
            # as one function, which has a form for each stage and mode
            with (
                torch._functorch.config.patch(force_non_lazy_backward_lowering=True),
                torch._dynamo.config.patch(recompile_limit=_FORMS),
            ):
                return self._compiled(x)
        except Exception as error:  # a compiler may stumble over anything
            self._compiled = None
            made = self.stage(x)  # what is wrong with the stage itself is raised here, in its own words
            self.tell(f"{self.name} goes on uncompiled: {describe_error(error)}")
            return made
