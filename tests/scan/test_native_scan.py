"""The compiled CPU backend against the recurrence in float64."""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semillie_core.scan import native, selective_scan, selective_scan_2d

pytestmark = pytest.mark.skipif(
    native.unavailable_reason() is not None, reason=str(native.unavailable_reason())
)

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
SETS = ("base", "avx2", "avx512")


def assert_close(actual, expected, tolerance=3e-6):
    """Errors are measured against the largest value: sums of float32 terms cannot be closer element by element."""
    scale = float(expected.abs().max()) or 1.0
    torch.testing.assert_close(actual.double() / scale, expected.double() / scale, atol=tolerance, rtol=0)


def run_2d(inputs, grad_y):
    # No clone, which would be contiguous.
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = selective_scan_2d(*leaves, backend="native")
    y.backward(grad_y)
    return [y.detach(), *(t.grad for t in leaves)]


def reversed_in_memory(t):
    """The same values, the first axis with the smallest stride."""
    return t.permute(*range(t.dim() - 1, -1, -1)).contiguous().permute(*range(t.dim() - 1, -1, -1))


def check_2d(reference, inputs):
    exact = [t.double().requires_grad_() for t in inputs]
    expected = reference(*exact)
    grad_y = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(grad_y.double())
    for actual, wanted in zip(
        run_2d(inputs, grad_y), [expected.detach(), *(t.grad for t in exact)], strict=True
    ):
        assert_close(actual, wanted, 3e-6 if actual.dim() == 4 else 3e-5)


@pytest.fixture(params=SETS)
def instruction_set(request, monkeypatch):
    usable = SETS[: SETS.index(native.instruction_set()) + 1]
    if request.param not in usable:
        pytest.skip(f"this machine has no {request.param}")
    monkeypatch.setenv(native.INSTRUCTION_SET_ENV, request.param)
    return request.param


@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3"])
def test_matches_the_float64_fixtures(parity, instruction_set, case):
    metadata, tensors = parity("semillie_selective_scan_f64")
    values = {key.removeprefix(f"{case}."): t for key, t in tensors.items() if key.startswith(f"{case}.")}
    inputs = [values[n].float().requires_grad_() if n in values else None for n in NAMES]
    softplus = metadata["cases"][case]["delta_softplus"]
    y, last_state = selective_scan(*inputs, softplus, return_last_state=True, backend="native")
    y.backward(values["grad_y"].float())
    assert_close(y, values["y"])
    assert_close(last_state, values["last_state"])
    for name, tensor in zip(NAMES, inputs, strict=True):
        if tensor is not None:
            assert_close(tensor.grad, values[f"grad_{name}"])


@pytest.mark.parametrize("states", [1, 4, 8, 16, 21])
@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (13, 11, 33), (1, 131, 16), (67, 2, 5)])
def test_2d_matches_the_recurrence(
    scan_2d_reference, scan_2d_inputs, instruction_set, height, width, channels, states
):
    check_2d(
        scan_2d_reference,
        scan_2d_inputs(2, height, width, channels, states, 3, dtype=torch.float32, seed=states),
    )


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.sampled_from([1, 2, 5, 9, 31]),
    width=st.sampled_from([1, 3, 8, 13]),
    channels=st.sampled_from([1, 2, 7, 16, 17, 40, 96]),
    d_state=st.integers(1, 20),
    rank=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_2d_matches_the_recurrence_for_any_shape(scan_2d_reference, scan_2d_inputs, **sizes):
    check_2d(scan_2d_reference, scan_2d_inputs(**sizes, dtype=torch.float32))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3]),
    per_group=st.sampled_from([1, 3, 8, 18]),
    d_state=st.integers(1, 9),
    length=st.sampled_from([1, 2, 63, 64, 65, 129]),
    softplus=st.booleans(),
    skip=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_1d_matches_the_recurrence(
    scan_reference, batch, groups, per_group, d_state, length, softplus, skip, bias, seed
):
    g = torch.Generator().manual_seed(seed)
    channels = groups * per_group

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    delta = draw(batch, channels, length)
    inputs = [
        draw(batch, length, channels).transpose(1, 2),  # not contiguous
        delta if softplus else delta.abs(),
        -draw(channels, d_state).abs(),
        draw(batch, groups, d_state, length),
        draw(batch, groups, length, d_state).transpose(2, 3),
        draw(channels) if skip else None,
        draw(channels).abs() if bias else None,
    ]
    gradients = draw(batch, channels, length), draw(batch, channels, d_state)
    results = []
    for run, dtype in ((scan_reference, torch.float64), (selective_scan, torch.float32)):
        leaves = [None if t is None else t.to(dtype, copy=True).requires_grad_() for t in inputs]
        native_only = {} if run is scan_reference else {"return_last_state": True, "backend": "native"}
        outputs = run(*leaves, softplus, **native_only)
        torch.autograd.backward(outputs, [t.to(dtype) for t in gradients])
        results.append([*outputs, *(t.grad for t in leaves if t is not None)])
    for actual, expected in zip(results[1], results[0], strict=True):
        # Sums over time and batch may cancel: that leaves fewer digits.
        assert_close(actual.detach(), expected.detach(), 3e-5 if actual.dim() < 3 else 3e-6)


def test_takes_inputs_and_gradients_that_are_not_contiguous(scan_2d_inputs):
    inputs = scan_2d_inputs(2, 6, 5, 8, 4, 2, dtype=torch.float32)
    grad_y = torch.randn(2, 5, 6, 8)
    # Results computed from a tensor whose axes are in another order in memory inherit that order.
    for strided in (
        [t.repeat_interleave(2, -1)[..., ::2] for t in inputs],
        [reversed_in_memory(t) for t in inputs],
    ):
        assert not any(t.is_contiguous() for t in strided if t.dim() > 1)
        for actual, expected in zip(
            run_2d(strided, grad_y.transpose(1, 2)),
            run_2d(inputs, grad_y.transpose(1, 2).contiguous()),
            strict=True,
        ):
            assert torch.equal(actual, expected)


def test_takes_1d_inputs_and_gradients_that_are_not_contiguous():
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 9), (2, 6, 9), (6, 3), (2, 2, 3, 9), (2, 2, 3, 9), (6,), (6,))
    inputs = [torch.randn(shape, generator=g) for shape in shapes]
    gradients = torch.randn(2, 6, 9, generator=g), torch.randn(2, 6, 3, generator=g)

    def run(transform):
        leaves = [t.clone().requires_grad_() for t in inputs]
        outputs = selective_scan(
            *map(transform, leaves), delta_softplus=True, return_last_state=True, backend="native"
        )
        torch.autograd.backward(outputs, [transform(t) for t in gradients])
        return [*(t.detach() for t in outputs), *(t.grad for t in leaves)]

    for actual, expected in zip(run(reversed_in_memory), run(lambda t: t), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(("batch", "channels"), [(1, 128), (1, 96), (2, 80), (3, 136)])
def test_results_do_not_depend_on_threads_or_repetition(scan_2d_inputs, monkeypatch, batch, channels):
    x, x_proj, weight, bias, A_logs, D = scan_2d_inputs(batch, 23, 17, channels, 8, 3, dtype=torch.float32)
    arguments = (x, x_proj, weight, bias, -A_logs.exp(), D)
    grad_y = torch.randn(batch, 23, 17, channels)
    runs = []
    for threads in (1, 1, 2, 5):
        # Of the scan only: torch's own matrix products may split their sums by thread.
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        y, saved = native.scan_2d_forward(*arguments, True)
        runs.append([y, *saved, *native.scan_2d_backward(grad_y, *arguments, saved)])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_an_interruption_waits_for_the_helpers_even_if_it_is_repeated(monkeypatch):
    begun, finished, main = [], [], threading.get_ident()
    helper_works = threading.Event()

    def interrupted(_problem, item):
        begun.append(item)
        if threading.get_ident() == main:
            assert helper_works.wait(10)
            raise KeyboardInterrupt("first")
        helper_works.set()
        time.sleep(0.5)
        finished.append(item)
        return 0

    def wait_interrupted(futures):
        monkeypatch.setattr(native, "wait", wait)
        raise KeyboardInterrupt("second")

    wait = native.wait
    monkeypatch.setattr(native, "wait", wait_interrupted)
    with pytest.raises(KeyboardInterrupt, match="second"):
        native._run(interrupted, native._Scan(), items=100, threads=2)
    assert len(begun) == 2 and len(finished) == 1
    time.sleep(0.1)
    assert len(begun) == 2


def test_memory_of_a_scan_lives_as_long_as_a_helper_may_use_it():
    problem, tensor = native._Scan(), torch.ones(3)
    native._point(problem, {"u": tensor})
    alive = weakref.ref(tensor)
    del tensor
    assert alive() is not None
    del problem
    assert alive() is None


def test_extreme_steps_are_right(scan_reference, instruction_set):
    """exp(dt * A) from exactly 1 down to 0, softplus far out on both sides, and growing states."""
    steps = torch.tensor([-300.0, -90.0, -20.0, -1e-8, 0.0, 15.0, 25.0, 90.0, 1e4, 3e38])
    u = torch.ones(1, 10, 4)
    delta = steps[None, :, None].expand(1, 10, 4).contiguous()
    A = torch.tensor([-1e-3, -1.0, -16.0]).expand(10, 3).contiguous()
    B = C = torch.ones(1, 3, 4)
    expected, state = scan_reference(*(t.double() for t in (u, delta, A, B, C)), None, None, True)
    y, last = selective_scan(u, delta, A, B, C, delta_softplus=True, return_last_state=True, backend="native")
    expected, state = expected.float(), state.float()
    torch.testing.assert_close(y, expected, rtol=2e-6, atol=1e-37)
    torch.testing.assert_close(last, state, rtol=2e-6, atol=1e-37)

    growing = torch.tensor([[0.5, 40.0]])
    y, last = selective_scan(
        u[:, :1],
        u[:, :1],
        growing,
        B[:, :2],
        C[:, :2],
        delta_softplus=False,
        return_last_state=True,
        backend="native",
    )
    exact = torch.ones(2, dtype=torch.float64)
    for _ in range(3):
        exact = exact * growing[0].double().exp() + 1
    torch.testing.assert_close(last[0, 0], exact.float(), rtol=1e-5, atol=0)
    assert last[0, 0, 1] == torch.inf


def test_a_tiny_step_keeps_the_state_for_very_long():
    """A decay factor next to 1 is as good as float32 allows: no drift on top of the products' rounding."""
    length = 20_000
    u = torch.zeros(1, 1, length)
    u[..., 0] = 1
    delta = torch.full_like(u, 1e-6)
    A = torch.tensor([[-1.0]])
    B, C = torch.full((1, 1, length), 1e6), torch.ones(1, 1, length)
    _, last = selective_scan(u, delta, A, B, C, return_last_state=True, backend="native")
    state, step = np.float32(1), np.float32(torch.exp(torch.tensor(-1e-6)))
    for _ in range(length - 1):
        state = state * step
    assert float(last) == pytest.approx(float(state), rel=2e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spreads_where_the_formula_spreads_it(scan_reference, instruction_set, value):
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 5, 80, generator=g), torch.randn(1, 5, 80, generator=g)]
    inputs += [-torch.rand(5, 4, generator=g), *(torch.randn(1, 4, 80, generator=g) for _ in range(2))]
    for index in (0, 1, 3, 4):
        broken = [t.clone() for t in inputs]
        broken[index][0, 2, 70] = value
        expected, _ = scan_reference(*(t.double() for t in broken), None, None, True)
        y = selective_scan(*broken, delta_softplus=True, backend="native")
        assert torch.equal(torch.isfinite(y), torch.isfinite(expected))


def test_denormal_mode_of_the_caller_is_restored(scan_2d_inputs):
    tiny = torch.tensor([1e-40])
    selective_scan_2d(*scan_2d_inputs(1, 3, 3, 4, 2, 1, dtype=torch.float32), backend="native")
    assert float(tiny * 0.5) > 0


def test_large_buffers_of_large_pages_hold_the_same_values(scan_2d_inputs, monkeypatch):
    inputs = scan_2d_inputs(1, 150, 160, 96, 4, 2, dtype=torch.float32)
    grad_y = torch.randn(1, 150, 160, 96)
    assert grad_y.nbytes > native._LARGE_BYTES
    large = run_2d(inputs, grad_y)
    monkeypatch.setattr(native, "_LARGE_BYTES", 1 << 60)
    assert all(torch.equal(a, b) for a, b in zip(large, run_2d(inputs, grad_y), strict=True))


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(),
    reason="this system has no large pages to ask for",
)
def test_large_buffers_ask_for_large_pages():
    room = native._room(torch.empty(0), 3 * native._LARGE_BYTES // 4)
    middle = room.data_ptr() + room.nbytes // 2
    flags, inside = "", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= middle < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line
    assert " hg" in flags


def test_without_gradients_no_states_are_stored(scan_2d_inputs, monkeypatch):
    leaves = [t.requires_grad_() for t in scan_2d_inputs(1, 3, 3, 4, 2, 1, dtype=torch.float32)]

    def refuse(*args):
        raise AssertionError("states stored")

    monkeypatch.setattr(native, "_checkpoints", refuse)
    with torch.no_grad():
        selective_scan_2d(*leaves, backend="native")
    with pytest.raises(AssertionError, match="states stored"):
        selective_scan_2d(*leaves, backend="native")


def test_an_unknown_instruction_set_is_named(scan_2d_inputs, monkeypatch):
    monkeypatch.setenv(native.INSTRUCTION_SET_ENV, "mmx")
    with pytest.raises(ValueError, match=r"SEMILLIE_NATIVE_ISA is 'mmx'.*base"):
        selective_scan_2d(*scan_2d_inputs(1, 2, 2, 3, 2, 1, dtype=torch.float32), backend="native")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_works_in_a_forked_process(monkeypatch):
    """Data loaders fork; helper threads of the parent do not exist in the child."""
    # Of the scan only: torch's own threads do not survive a fork.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    u, delta = torch.randn(2, 32, 81), torch.rand(2, 32, 81)
    B = C = torch.randn(2, 1, 4, 81)
    arguments = (u, delta, -torch.rand(32, 4), B, C, None, None, False, False)
    expected, _, _ = native.scan_forward(*arguments)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(native.scan_forward(*arguments)[0], expected) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
