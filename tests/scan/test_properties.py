"""What holds for every backend of this machine, for any shape and any input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semillie_core.scan import available_backends, selective_scan, selective_scan_2d

ON_CPU = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in available_backends().items()
    if name in ("native", "chunked")
]
pytestmark = pytest.mark.parametrize("backend", ON_CPU)

LENGTHS = [1, 2, 3, 5, 7, 13, 16, 17, 31, 63, 64, 65, 127, 128, 129, 131]
"""1, primes, and both sides of the backends' chunks (squares, multiples of 16 and of 64)."""


def draw_inputs(seed, batch, groups, per_group, states, length, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    channels = groups * per_group
    u, delta = (torch.randn(batch, channels, length, generator=g).to(dtype) for _ in range(2))
    A = -torch.rand(channels, states, generator=g).to(dtype)
    B, C = (torch.randn(batch, groups, states, length, generator=g).to(dtype) for _ in range(2))
    return [u, delta, A, B, C]


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 4),
    per_group=st.integers(1, 20),
    states=st.integers(1, 17),
    length=st.sampled_from(LENGTHS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 999),
)
def test_half_precision_is_rounded_only_at_the_ends(
    scan_reference, backend, batch, groups, per_group, states, length, dtype, seed
):
    inputs = draw_inputs(seed, batch, groups, per_group, states, length, dtype)
    y, last = selective_scan(*inputs, delta_softplus=True, return_last_state=True, backend=backend)
    expected, state = scan_reference(*(t.double() for t in inputs), delta_softplus=True)
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    for actual, wanted, tolerance in (
        (y, expected, 3e-6 + torch.finfo(dtype).eps * (dtype != torch.float32)),
        (last, state, 3e-6),
    ):
        scale = float(wanted.abs().max()) or 1.0
        torch.testing.assert_close(actual.double() / scale, wanted / scale, atol=tolerance, rtol=0)


@settings(max_examples=20, deadline=None)
@given(
    size=st.sampled_from(LENGTHS),
    steps=st.lists(st.sampled_from([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4]), min_size=1, max_size=4),
    seed=st.integers(0, 999),
)
def test_no_step_size_is_too_extreme(scan_reference, backend, size, steps, seed):
    u, delta, A, B, C = draw_inputs(seed, 1, 1, 6, 3, size)
    delta = torch.tensor(steps).repeat(6 * size)[: 6 * size].view(1, 6, size)
    leaves = [t.requires_grad_() for t in (u, delta, A, B, C)]
    y = selective_scan(*leaves, delta_softplus=True, backend=backend)
    y.sum().backward()
    expected, _ = scan_reference(*(t.detach().double() for t in leaves), delta_softplus=True)
    # Steps of e^-100 are denormal, which a backend may flush.
    scale = max(float(expected.abs().max()), 1e-30)
    torch.testing.assert_close(y.detach().double() / scale, expected / scale, atol=3e-6, rtol=0)
    assert all(torch.isfinite(t.grad).all() for t in leaves)


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 3),
    length=st.sampled_from(LENGTHS),
    value=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    which=st.integers(0, 4),
    place=st.integers(0, 10**6),
)
def test_what_is_not_finite_goes_where_the_formula_sends_it(
    scan_reference, backend, groups, length, value, which, place
):
    inputs = draw_inputs(place, 2, groups, 3, 2, length)
    if which == 2 and value == torch.inf:
        value = -value  # A growing state is a different matter.
    inputs[which].view(-1)[place % inputs[which].numel()] = value
    y = selective_scan(*inputs, delta_softplus=True, backend=backend)
    expected, _ = scan_reference(*(t.double() for t in inputs), delta_softplus=True)
    assert torch.equal(torch.isfinite(y), torch.isfinite(expected))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_pixel_breaks_its_own_image_only(scan_2d_inputs, backend, value):
    x, *weights = scan_2d_inputs(3, 6, 5, 4, 2, 1, dtype=torch.float32)
    clean = selective_scan_2d(x, *weights, backend=backend)
    x[1, 2, 3, 0] = value
    y = selective_scan_2d(x, *weights, backend=backend)
    torch.testing.assert_close(y[[0, 2]], clean[[0, 2]])
    assert not torch.isfinite(y[1]).all()


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.sampled_from([1, 2, 7, 16]),
    width=st.sampled_from([1, 3, 11, 17]),
    channels=st.sampled_from([1, 5, 16, 33]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_strides_change_nothing_and_runs_repeat(
    scan_2d_inputs, backend, batch, height, width, channels, dtype
):
    inputs = [t.to(dtype) for t in scan_2d_inputs(batch, height, width, channels, 3, 2, dtype=torch.float32)]
    strided = [t.repeat_interleave(2, -1)[..., ::2] for t in inputs]
    results = []
    for tensors in (inputs, inputs, strided):
        leaves = [t.detach().requires_grad_() for t in tensors]
        y = selective_scan_2d(*leaves, backend=backend)
        y.backward(torch.ones_like(y).transpose(1, 2).contiguous().transpose(1, 2))
        assert y.dtype == dtype
        assert all(t.grad.dtype == dtype for t in leaves)
        results.append([y.detach(), *(t.grad for t in leaves)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
