"""Recurrent layers as one operation in an exported graph, for sound of any length.

torch traces a GRU step by step, which fixes the number of frames; here it is traced as an operation whose shape alone
is known. In a program of `torch.export` it is then named as torch's own, in ONNX as GRU or LSTM.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, nn

Single = nn.GRU | nn.LSTM


@torch.library.custom_op("infomax::gru", mutates_args=())
def _gru(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """``(B, T, C)`` to ``(B, T, H)``, forward in time, from zeros."""
    state = x.new_zeros(1, x.shape[0], w_hh.shape[1])
    return torch.gru(x, state, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False, True)[0].clone()


@torch.library.custom_op("infomax::lstm", mutates_args=())
def _lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """``(B, T, C)`` to ``(B, T, H)``, forward in time, from zeros."""
    state = x.new_zeros(1, x.shape[0], w_hh.shape[1])
    return torch.lstm(x, [state, state], [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False, True)[0].clone()


@_gru.register_fake
@_lstm.register_fake
def _shape(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], w_hh.shape[1])


class _Traceable(nn.Module):
    """A recurrent layer of one direction in place of torch's own; the state after the last frame is not given out."""

    def __init__(self, layer: Single) -> None:
        super().__init__()
        self.operation = torch.ops.infomax.gru if isinstance(layer, nn.GRU) else torch.ops.infomax.lstm
        self.batch_first = layer.batch_first
        self.weights = nn.ParameterList([layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0])

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        if state is not None:
            raise ValueError("a recurrent layer that goes on from a state cannot be exported")
        y = self.operation(x if self.batch_first else x.transpose(0, 1), *self.weights)
        return y if self.batch_first else y.transpose(0, 1), None


def traceable(model: nn.Module) -> nn.Module:
    """A copy of `model`, on the CPU, whose recurrent layers can be traced for any length."""
    model = copy.deepcopy(model).cpu().eval()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.GRU | nn.LSTM) and _is_simple(layer):
                setattr(parent, name, _Traceable(layer).eval())
    return model


def _is_simple(layer: Single) -> bool:
    projects = bool(getattr(layer, "proj_size", 0))
    return layer.num_layers == 1 and layer.bias and not layer.bidirectional and not projects


def name_as_torch_does(program: torch.export.ExportedProgram) -> None:
    """Put torch's own operations in place of ours, so that the program needs nothing but torch."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target not in (torch.ops.infomax.gru.default, torch.ops.infomax.lstm.default):
            continue
        x, *weights = node.args
        value, width = node.meta["val"], weights[1].meta["val"].shape[1]
        is_gru = node.target == torch.ops.infomax.gru.default
        with graph.inserting_before(node), value.fake_mode:
            batch = _call(graph, torch.ops.aten.sym_size.int, (x, 0), value.shape[0])
            zeros = torch.zeros(1, value.shape[0], width)
            state = _call(graph, torch.ops.aten.zeros.default, ([1, batch, width],), zeros)
            tail = (list(weights), True, 1, 0.0, False, False, True)
            if is_gru:
                result = _call(graph, torch.ops.aten.gru.input, (x, state, *tail), (value, zeros))
            else:
                result = _call(graph, torch.ops.aten.lstm.input, (x, [state, state], *tail), (value, zeros, zeros))
            first = _call(graph, operator.getitem, (result, 0), value)
        node.replace_all_uses_with(first)
        graph.erase_node(node)
    program.graph_module.recompile()


def _call(graph: torch.fx.Graph, target: Any, arguments: tuple[Any, ...], value: Any) -> torch.fx.Node:
    node = graph.call_function(target, arguments)
    node.meta["val"] = value
    return node


def onnx_translations() -> dict[Any, Any]:
    """Our operations in ONNX's own; its gates come in another order than torch's."""
    from onnxscript import opset18

    op: Any = opset18

    def first_axis(x: Any) -> Any:
        return op.Unsqueeze(x, op.Constant(value_ints=[0]))

    def reordered(w: Any, order: tuple[int, ...]) -> Any:
        gates = op.Split(w, num_outputs=len(order), axis=0)
        return op.Concat(*(gates[place] for place in order), axis=0)

    def run(layer: Any, order: tuple[int, ...], x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, **more: Any) -> Any:
        bias = first_axis(op.Concat(reordered(b_ih, order), reordered(b_hh, order), axis=0))
        kernels = first_axis(reordered(w_ih, order)), first_axis(reordered(w_hh, order))
        y = layer(op.Transpose(x, perm=[1, 0, 2]), *kernels, bias, hidden_size=int(w_hh.shape[1]), **more)[0]
        return op.Transpose(op.Squeeze(y, op.Constant(value_ints=[1])), perm=[1, 0, 2])  # (T, 1, B, H) to (B, T, H)

    def gru(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        """Reset, update, new; ONNX: update, reset, new."""
        return run(op.GRU, (1, 0, 2), x, w_ih, w_hh, b_ih, b_hh, linear_before_reset=1)

    def lstm(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        """Input, forget, cell, output; ONNX: input, output, forget, cell."""
        return run(op.LSTM, (0, 3, 1, 2), x, w_ih, w_hh, b_ih, b_hh)

    return {torch.ops.infomax.gru.default: gru, torch.ops.infomax.lstm.default: lstm}
