"""The scan's operator and that of :mod:`.operators` in ONNX. Needs onnxscript."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

# Importing registers the operators.
from ..scan import operators as _scan_operators  # noqa: F401
from . import operators as _operators  # noqa: F401

OPSET = 18
"""ONNX operator set of the exported files."""

_SEMILLIE = Opset("semillie", 1)
_LAST = -(2**62)
"""Where a backward slice ends to include the first element."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operator to its translation, for ``torch.onnx.export(custom_translation_table=...)``."""
    return {
        torch.ops.semillie.selective_scan_2d.default: _selective_scan_2d,
        torch.ops.semillie_export.make_thumbnail.default: _make_thumbnail,
    }


# onnxscript reads the source of a scripted function: every line of it is ONNX, hence no docstrings inside graphs.


@script(_SEMILLIE, default_opset=op)  # type: ignore[untyped-decorator]
def scan_lines(
    u: FLOAT[...],
    project_dt: FLOAT[...],
    project_B: FLOAT[...],
    project_C: FLOAT[...],
    widen_dt: FLOAT[...],
    bias_dt: FLOAT[...],
    A: FLOAT[...],
    D: FLOAT[...],
) -> FLOAT[...]:
    """Two directions of the scan, step by step along all lines of the image at once.

    The image's lines are the chunks of ``semillie_core.scan.chunked``: each runs from a zero state, the states at their
    ends are carried from line to line, and each runs again from its true initial state. States are ``(batch, 2, lines,
    N, E)``: channels last, so that broadcasting over the states reads whole rows.

    Args:
        u: ``(steps, batch, 2, lines, E)``.
        project_dt: ``(2, E, R)``.
        project_B: ``(2, E, N)``.
        project_C: ``(2, E, N)``.
        widen_dt: ``(2, R, E)``.
        bias_dt: ``(2, 1, E)``.
        A: ``(2, 1, N, E)``.
        D: ``(2, 1, E)``.
    """
    step_axis = op.Constant(value_ints=[0])
    line_axis = op.Constant(value_ints=[2])
    state_axis = op.Constant(value_ints=[-2])
    channel_axis = op.Constant(value_ints=[-1])

    before_softplus = op.MatMul(op.MatMul(u, project_dt), widen_dt) + bias_dt
    # onnxruntime's Softplus is a scalar loop; its Exp and Log are not.
    dt = op.Relu(before_softplus) + op.Log(op.Exp(op.Neg(op.Abs(before_softplus))) + 1.0)
    B = op.MatMul(u, project_B)
    C = op.MatMul(u, project_C)
    weighted = dt * u
    decay_of_line = op.Exp(op.Unsqueeze(op.ReduceSum(dt, step_axis, keepdims=0), state_axis) * A)
    zero = op.Expand(op.Constant(value_float=0.0), op.Shape(decay_of_line))
    before_first_line = op.Expand(
        op.Constant(value_float=0.0), op.Shape(op.ReduceSum(decay_of_line, line_axis, keepdims=0))
    )

    @graph()
    def advance(state, dt_t, weighted_t, B_t):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        decay = op.Exp(op.Unsqueeze(dt_t, state_axis) * A)
        added = op.Unsqueeze(weighted_t, state_axis) * op.Unsqueeze(B_t, channel_axis)
        next_state = decay * state + added
        return next_state

    line_end = op.Scan(zero, dt, weighted, B, body=advance, num_scan_inputs=3)

    @graph()
    def carry(state, decay, end):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        line_start = op.Identity(state)
        next_state = decay * state + end
        return next_state, line_start

    _last, start = op.Scan(
        before_first_line,
        decay_of_line,
        line_end,
        body=carry,
        num_scan_inputs=2,
        scan_input_axes=[2, 2],
        scan_output_axes=[2],
    )

    @graph()
    def emit(state, dt_t, weighted_t, B_t, C_t):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        decay = op.Exp(op.Unsqueeze(dt_t, state_axis) * A)
        added = op.Unsqueeze(weighted_t, state_axis) * op.Unsqueeze(B_t, channel_axis)
        next_state = decay * state + added
        y_t = op.Squeeze(op.MatMul(op.Unsqueeze(C_t, state_axis), next_state), state_axis)
        return next_state, y_t

    _end, y = op.Scan(start, dt, weighted, B, C, body=emit, num_scan_inputs=4)
    return y + D * u


@script(_SEMILLIE, default_opset=op)  # type: ignore[untyped-decorator]
def area_weights(length: INT64[...], cells: INT64[...]) -> FLOAT[...]:
    """``(cells, length)``: what each pixel gives to the average over each cell, as PyTorch's ``mode="area"`` has it."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    cell = op.Unsqueeze(op.Range(zero, op.Squeeze(cells), one), op.Constant(value_ints=[1]))
    pixel = op.Unsqueeze(op.Range(zero, op.Squeeze(length), one), op.Constant(value_ints=[0]))
    start = cell * length / cells
    end = ((cell + 1) * length + cells - 1) / cells
    inside = op.Cast(op.And(pixel >= start, pixel < end), to=1)
    return inside / op.Cast(end - start, to=1)


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _selective_scan_2d(
    x: Any,
    x_proj_weight: Any,
    dt_projs_weight: Any,
    dt_projs_bias: Any,
    A: Any,
    D: Any,
    backend: str,
    keep: bool,
) -> Any:
    E, N, R = x.shape[3], A.shape[1], dt_projs_weight.shape[2]
    project = op.Transpose(x_proj_weight, perm=[0, 2, 1])
    bounds = (0, R, R + N, R + 2 * N)
    parameters = (
        *(op.Slice(project, _ints(a), _ints(b), _ints(2)) for a, b in pairwise(bounds)),
        op.Transpose(dt_projs_weight, perm=[0, 2, 1]),
        op.Unsqueeze(dt_projs_bias, _ints(1)),
        op.Unsqueeze(op.Transpose(op.Reshape(A, _ints(4, E, N)), perm=[0, 2, 1]), _ints(1)),
        op.Reshape(D, _ints(4, 1, E)),
    )

    def backward(sequence: Any) -> Any:
        return op.Slice(sequence, _ints(-1, -1), _ints(_LAST, _LAST), _ints(0, 3), _ints(-1, -1))

    def there_and_back(first: int, perm: list[int]) -> Any:
        """Directions ``first`` and ``first + 2``, summed: ``(steps, batch, lines, E)``."""
        forward = op.Unsqueeze(op.Transpose(x, perm=perm), _ints(2))
        both = op.Concat(forward, backward(forward), axis=2)
        own = (op.Slice(p, _ints(first), _ints(4), _ints(0), _ints(2)) for p in parameters)
        y = scan_lines(both, *own)
        there = op.Slice(y, _ints(0), _ints(1), _ints(2))
        back = op.Slice(y, _ints(1), _ints(2), _ints(2))
        return op.Squeeze(op.Add(there, backward(back)), _ints(2))

    by_row = op.Transpose(there_and_back(0, [2, 0, 1, 3]), perm=[1, 2, 0, 3])
    by_column = op.Transpose(there_and_back(1, [1, 0, 2, 3]), perm=[1, 0, 2, 3])
    # The operator's second result, kept for a backward pass, is empty in inference.
    return (op.Add(by_row, by_column),)


def _make_thumbnail(frame: Any, long_side: int) -> Any:
    # In float64, as Python computes it: in float32 some halves are rounded the other way, to another thumbnail.
    one, long = (op.Cast(op.Constant(value_floats=[value]), to=11) for value in (1.0, float(long_side)))
    height, width = op.Shape(frame, start=2, end=3), op.Shape(frame, start=3, end=4)
    edges = [op.Cast(edge, to=11) for edge in (height, width)]
    scale = op.Min(op.Div(long, op.Max(*edges)), one)
    rows, columns = (op.Cast(op.Max(op.Round(op.Mul(edge, scale)), one), to=7) for edge in edges)
    down = area_weights(height, rows)
    across = op.Transpose(area_weights(width, columns), perm=[1, 0])
    return op.MatMul(op.MatMul(down, frame), across)
