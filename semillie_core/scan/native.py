"""Selective scan in compiled code for CPUs (float32), from the optional wheel ``semi-llie-native``.

The library is plain C behind :mod:`ctypes`: it sees pointers and sizes only, so one build serves every version of
torch and Python. It visits the image in each direction by stride, stores one state in 64 and recomputes the others
in the backward pass. What is summed over the whole tensor is summed in an order that depends on the shapes alone,
so results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch
from torch import Tensor

_ABI = 5
_INSTALL = "install the compiled backend with `pip install ./native` in the Semi-LLIE repository"
_INSTRUCTION_SETS = ("auto", "base", "avx2", "avx512")  # enum semillie_isa
_MOST_PARTS = 4
"""Pieces that the backward pass of one image can be shared out in, where it has the channels."""
_LARGE_BYTES = 8 << 20
"""Buffers of this size and more ask for large pages: the C library hands most of them back to the system when they are
freed, and taking the next one page by page costs up to a quarter of a scan's time."""


class _Scan(ctypes.Structure):
    """``struct semillie_scan`` of ``native/src/semillie_scan.h``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                "isa",
                "batch",
                "height",
                "width",
                "channels",
                "states",
                "rank",
                "groups",
                "image",
                "softplus",
                "parts",
                "pieces",
            )
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "u",
                "projection",
                "delta",
                "dt_weight",
                "dt_bias",
                "a",
                "d",
                "y",
                "checkpoints",
                "last_state",
                "grad_y",
                "grad_last",
                "grad_u",
                "grad_projection",
                "grad_delta",
                "grad_dt_weight",
                "grad_dt_bias",
                "grad_a",
                "grad_d",
            )
        ),
    )
    tensors: Mapping[str, Tensor | None]
    """What the pointers point to: whoever holds the structure keeps it alive."""


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(importlib.import_module("semillie_native").LIBRARY))
    for name in ("abi", "tile", "isa"):
        getattr(library, f"semillie_scan_{name}").restype = ctypes.c_int64
    library.semillie_scan_lanes.argtypes = (ctypes.c_int64,)
    library.semillie_scan_lanes.restype = ctypes.c_int64
    library.semillie_scan_use_large_pages.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    library.semillie_scan_use_large_pages.restype = None
    for name in ("forward", "backward"):
        function = getattr(library, f"semillie_scan_{name}")
        function.argtypes = (ctypes.POINTER(_Scan), ctypes.c_int64)
        function.restype = ctypes.c_int
    return library


def unavailable_reason() -> str | None:
    """Why the compiled library cannot be used, or ``None``."""
    try:
        found = _library().semillie_scan_abi()
    except ImportError:
        return f"the package semi-llie-native is not installed; {_INSTALL}"
    except (OSError, AttributeError) as error:
        return f"the library of semi-llie-native does not load ({error}); {_INSTALL} again"
    if found != _ABI:
        return f"semi-llie-native has interface {found}, this version needs {_ABI}; {_INSTALL} again"
    return None


INSTRUCTION_SET_ENV = "SEMILLIE_NATIVE_ISA"
"""Environment variable that makes the library use ``"base"``, ``"avx2"`` or ``"avx512"`` code."""


def instruction_set() -> str:
    """Name of the code that runs: ``"avx512"``, ``"avx2"`` or ``"base"`` (SSE4.2, NEON).

    Raises:
        ValueError: The environment variable ``SEMILLIE_NATIVE_ISA`` asks for one that this machine lacks.
    """
    return _INSTRUCTION_SETS[_isa()]


def _isa() -> int:
    best: int = _library().semillie_scan_isa()
    wanted = os.environ.get(INSTRUCTION_SET_ENV, "auto")
    usable = _INSTRUCTION_SETS[: best + 1]
    if wanted not in usable:
        raise ValueError(f"{INSTRUCTION_SET_ENV} is {wanted!r}; this machine can use {', '.join(usable)}.")
    return _INSTRUCTION_SETS.index(wanted) or best


def scan_2d_forward(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A: Tensor,
    D: Tensor,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    """``scan_2d`` in the kernel form of :mod:`.backends`."""
    # One product in raster order serves all directions: each reads its part of a row.
    weight = x_proj_weight.flatten(0, 1).t()
    projection = _room(x, x.shape[:-1].numel(), weight.shape[1])
    torch.mm(x.flatten(0, 2), weight, out=projection)
    problem = _problem_2d(x, dt_projs_weight, A)
    y = _room(x, *x.shape)
    saved = [projection, _checkpoints(problem, x)] if keep else []
    tensors = {
        "u": x,
        "projection": projection,
        "dt_weight": dt_projs_weight,
        "dt_bias": dt_projs_bias,
        "a": A,
        "d": D,
        "y": y,
        "checkpoints": saved[1] if keep else None,
    }
    _forward(problem, tensors, chains=1)
    return y, saved


def scan_2d_backward(
    grad_y: Tensor,
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A: Tensor,
    D: Tensor,
    saved: list[Tensor],
) -> tuple[Tensor, ...]:
    """Gradients of ``scan_2d``."""
    projection, checkpoints = saved
    batch = x.shape[0]
    problem = _problem_2d(x, dt_projs_weight, A)
    pieces = _cut_backward(problem, chains=1)
    grad_x = _room(x, *x.shape)
    grad_projection = _room(x, pieces, *projection.shape)
    grads = {
        "grad_dt_weight": x.new_empty(batch, *dt_projs_weight.shape),
        "grad_dt_bias": x.new_empty(batch, *dt_projs_bias.shape),
        "grad_a": x.new_empty(batch, *A.shape),
        "grad_d": x.new_empty(batch, *D.shape),
    }
    inputs = {
        "u": x,
        "projection": projection,
        "dt_weight": dt_projs_weight,
        "dt_bias": dt_projs_bias,
        "a": A,
        "d": D,
        "checkpoints": checkpoints,
        "grad_y": grad_y,
        "grad_u": grad_x,
        "grad_projection": grad_projection,
    }
    _backward(problem, inputs | grads, items=batch * pieces)
    grad_rows = _sum_in_pairs(grad_projection)
    grad_x.flatten(0, 2).addmm_(grad_rows, x_proj_weight.flatten(0, 1))
    grad_x_proj = (grad_rows.t() @ x.flatten(0, 2)).view_as(x_proj_weight)
    return grad_x, grad_x_proj, *(grad.sum(0) for grad in grads.values())


def scan_2d_saved(shape: Sequence[int], states: int, rank: int) -> list[tuple[int, ...]]:
    """Shapes of the projection and of the states to start from."""
    batch, height, width, channels = shape
    tokens = height * width
    return [
        (batch * tokens, 4 * (rank + 2 * states)),
        (batch, 4, _tiles(tokens), states, channels),
    ]


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``scan`` in the kernel form of :mod:`.backends`."""
    problem = _problem_1d(u, A, B, delta_softplus)
    sequence = _channels_last(u)
    y, last_state = _room(sequence, *sequence.shape), A.new_empty(u.shape[0], *A.shape)
    saved = [_checkpoints(problem, u)] if keep else []
    tensors = {
        "u": sequence,
        "projection": _rows(B, C),
        "delta": _channels_last(delta),
        "dt_bias": delta_bias,
        "a": A,
        "d": D,
        "y": y,
        "last_state": last_state,
        "checkpoints": saved[0] if keep else None,
    }
    _forward(problem, tensors, chains=B.shape[1])
    return y.transpose(1, 2).contiguous(), last_state, saved


def scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    saved: list[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``scan``."""
    batch, groups, states, _ = B.shape
    problem = _problem_1d(u, A, B, delta_softplus)
    pieces = _cut_backward(problem, chains=groups)
    sequence, rows = _channels_last(u), _rows(B, C)
    grad_u, grad_delta = (_room(sequence, *sequence.shape) for _ in range(2))
    grad_projection = _room(u, pieces, *rows.shape)
    grad_a = A.new_empty(batch, *A.shape)
    grad_d, grad_bias = (None if t is None else t.new_empty(batch, *t.shape) for t in (D, delta_bias))
    tensors = {
        "u": sequence,
        "projection": rows,
        "delta": _channels_last(delta),
        "dt_bias": delta_bias,
        "a": A,
        "d": D,
        "checkpoints": saved[0],
        "grad_y": _channels_last(grad_y),
        "grad_last": grad_last,
        "grad_u": grad_u,
        "grad_delta": grad_delta,
        "grad_projection": grad_projection,
        "grad_a": grad_a,
        "grad_d": grad_d,
        "grad_dt_bias": grad_bias,
    }
    _backward(problem, tensors, items=batch * groups * pieces)
    grad_rows = _sum_in_pairs(grad_projection).permute(0, 2, 3, 1)
    # Copies always: outputs of an operator must not share memory.
    grad_B, grad_C = (
        t.clone(memory_format=torch.contiguous_format) for t in torch.split(grad_rows, states, 2)
    )
    return (
        grad_u.transpose(1, 2).contiguous(),
        grad_delta.transpose(1, 2).contiguous(),
        grad_a.sum(0),
        grad_B,
        grad_C,
        None if grad_d is None else grad_d.sum(0),
        None if grad_bias is None else grad_bias.sum(0),
    )


def scan_saved(shape: Sequence[int], groups: int, states: int) -> list[tuple[int, ...]]:
    """Shape of the states to start from."""
    batch, channels, length = shape
    return [(batch, groups, _tiles(length), states, channels // groups)]


def _problem_2d(x: Tensor, dt_projs_weight: Tensor, A: Tensor) -> _Scan:
    batch, height, width, channels = x.shape
    return _Scan(
        isa=_isa(),
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        states=A.shape[1],
        rank=dt_projs_weight.shape[2],
        groups=4,
        image=1,
        softplus=1,
    )


def _problem_1d(u: Tensor, A: Tensor, B: Tensor, softplus: bool) -> _Scan:
    batch, channels, length = u.shape
    return _Scan(
        isa=_isa(),
        batch=batch,
        height=1,
        width=length,
        channels=channels // B.shape[1],
        states=A.shape[1],
        groups=B.shape[1],
        softplus=softplus,
    )


def _channels_last(t: Tensor) -> Tensor:
    return t.transpose(1, 2).contiguous()


def _rows(B: Tensor, C: Tensor) -> Tensor:
    """``(batch, L, G, 2N)``."""
    return torch.cat([B, C], dim=2).permute(0, 3, 1, 2).contiguous()


def _sum_in_pairs(t: Tensor) -> Tensor:
    """Sum over the first axis, in place and in the order in which the library adds up parts within a piece."""
    while len(t) > 1:
        whole = len(t) // 2 * 2
        t[:whole:2].add_(t[1:whole:2])
        t = t[::2]
    return t[0]


def _tiles(tokens: int) -> int:
    """Number of states that the forward pass saves per channel."""
    tile: int = _library().semillie_scan_tile()
    return -(-tokens // tile)


def _checkpoints(problem: _Scan, like: Tensor) -> Tensor:
    """Room for the states that the backward pass starts from."""
    tiles = _tiles(problem.height * problem.width)
    return _room(like, problem.batch, problem.groups, tiles, problem.states, problem.channels)


def _room(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor, of large pages where it is large."""
    tensor = like.new_empty(shape)
    if tensor.nbytes >= _LARGE_BYTES:
        _library().semillie_scan_use_large_pages(tensor.data_ptr(), tensor.nbytes)
    return tensor


def _vectors(problem: _Scan) -> int:
    """Number of vectors that hold the channels."""
    lanes: int = _library().semillie_scan_lanes(problem.isa)
    return -(-int(problem.channels) // lanes)


def _cut_backward(problem: _Scan, *, chains: int) -> int:
    """Cut the channels for the backward pass; returns the number of pieces that are items of their own.

    Where the cuts are depends on the shapes alone, because they decide the order of summation; to how many pieces the
    parts are shared out depends on the threads.
    """
    outputs = int(problem.batch) * chains
    # Two vectors and more in each, because the library takes them in pairs.
    parts = max(1, min(_vectors(problem) // 2, _MOST_PARTS))
    # One piece, halves where both are pairs (the order of the sums stays what it is), or each part its own.
    choices = (1, 2) if parts == 4 else (1,)
    problem.parts = parts
    problem.pieces = next((count for count in choices if _busy(outputs * count)), parts)
    return int(problem.pieces)


def _busy(items: int) -> bool:
    """Whether equal items keep all threads busy to the end. Each item walks over the whole image, so few are better."""
    threads = torch.get_num_threads()
    return items % threads == 0 or items >= 2 * threads


def _forward(problem: _Scan, tensors: Mapping[str, Tensor | None], *, chains: int) -> None:
    outputs = int(problem.batch) * chains
    # Any cut gives the same result here.
    most = max(1, _vectors(problem))
    problem.parts = next((parts for parts in range(1, most) if _busy(outputs * parts)), most)
    problem.pieces = problem.parts
    _point(problem, tensors)
    _run(_library().semillie_scan_forward, problem, outputs * int(problem.parts), torch.get_num_threads())


def _backward(problem: _Scan, tensors: Mapping[str, Tensor | None], *, items: int) -> None:
    _point(problem, tensors)
    _run(_library().semillie_scan_backward, problem, items, torch.get_num_threads())


def _point(problem: _Scan, tensors: Mapping[str, Tensor | None]) -> None:
    problem.tensors = tensors
    for name, tensor in tensors.items():
        setattr(problem, name, None if tensor is None else tensor.data_ptr())


def _run(function: Any, problem: _Scan, items: int, threads: int) -> None:
    """Call ``function(problem, item)`` for every item; the GIL is free during each call.

    An exception that a signal handler raises in between, such as ``KeyboardInterrupt``, passes through once no thread
    works on the problem any more.
    """
    reference = ctypes.byref(problem)
    counter = itertools.count()

    def work() -> bool:
        for item in counter:
            if item >= items:
                return True
            if function(reference, item):
                return False
        return True

    helpers = min(threads, items) - 1
    pending: list[Future[bool]] = []
    try:
        for _ in range(helpers):
            pending.append(_pool(os.getpid(), threads).submit(work))
        done = work()
    finally:
        items = 0  # Nothing more is handed out.
        _wait_for_all(pending)
    if not (done and all(future.result() for future in pending)):
        raise MemoryError(
            "The selective scan could not allocate its scratch memory (below 1 MiB per thread)."
        )


def _wait_for_all(pending: Sequence[Future[bool]]) -> None:
    """Wait until all are done, then raise what interrupted the waiting."""
    interruption: BaseException | None = None
    while not all(future.done() for future in pending):
        try:
            wait(pending)
        except BaseException as error:
            interruption = error
    if interruption is not None:
        raise interruption


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Helper threads of this process; threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="semillie-scan")
