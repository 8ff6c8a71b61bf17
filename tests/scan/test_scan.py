"""The public scan and its pure PyTorch backend."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semillie_core.precision import full_precision
from semillie_core.scan import (
    BACKEND_ENV,
    available_backends,
    resolve_backend,
    selective_scan,
    selective_scan_2d,
)

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_matches_the_float64_fixtures(parity, case, dtype, tolerance):
    metadata, tensors = parity("semillie_selective_scan_f64")
    given_ = {key.removeprefix(f"{case}."): t for key, t in tensors.items() if key.startswith(f"{case}.")}
    inputs = [given_[n].to(dtype).requires_grad_() if n in given_ else None for n in NAMES]
    softplus = metadata["cases"][case]["delta_softplus"]
    y, last_state = selective_scan(*inputs, softplus, return_last_state=True, backend="chunked")
    (y * given_["grad_y"].to(dtype)).sum().backward()

    def close(actual, expected):
        scale = float(expected.abs().max()) or 1.0
        torch.testing.assert_close(actual.double() / scale, expected / scale, atol=tolerance, rtol=0)

    close(y, given_["y"])
    close(last_state, given_["last_state"])
    for name, tensor in zip(NAMES, inputs, strict=True):
        if tensor is not None:
            close(tensor.grad, given_[f"grad_{name}"])


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    per_group=st.integers(1, 3),
    d_state=st.integers(1, 5),
    length=st.sampled_from([1, 2, 3, 7, 16, 17, 25, 31]),
    softplus=st.booleans(),
    grouped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_matches_the_recurrence(
    scan_reference, batch, groups, per_group, d_state, length, softplus, grouped, seed
):
    g = torch.Generator().manual_seed(seed)
    channels = groups * per_group

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    projection = (batch, groups, d_state, length) if grouped else (batch, d_state, length)
    delta = draw(batch, channels, length)
    arguments = (
        draw(batch, length, channels).transpose(1, 2),  # not contiguous
        delta if softplus else delta.abs(),
        -draw(channels, d_state).abs(),
        draw(*projection),
        draw(*projection),
        draw(channels),
        draw(channels) if softplus else None,
    )
    y, last = selective_scan(*arguments, softplus, return_last_state=True, backend="chunked")
    expected_y, expected_last = scan_reference(*arguments, softplus)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(last, expected_last)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.sampled_from([1, 2, 3, 5, 8]),
    width=st.sampled_from([1, 2, 4, 7]),
    channels=st.integers(1, 5),
    d_state=st.integers(1, 4),
    rank=st.integers(1, 3),
)
def test_2d_matches_four_separate_scans(scan_2d_reference, scan_2d_inputs, **sizes):
    inputs = scan_2d_inputs(**sizes)
    torch.testing.assert_close(selective_scan_2d(*inputs, backend="chunked"), scan_2d_reference(*inputs))


def test_gradients_pass_gradcheck(scan_2d_inputs):
    inputs = [t.requires_grad_() for t in scan_2d_inputs(1, 3, 4, 2, 2, 1)]
    assert torch.autograd.gradcheck(lambda *a: selective_scan_2d(*a, backend="chunked"), inputs)


def test_the_last_state_has_gradients():
    torch.manual_seed(3)
    u, delta = (torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    A = (-torch.rand(2, 3, dtype=torch.float64)).requires_grad_()
    B, C = (torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda *a: selective_scan(*a, None, None, True, return_last_state=True, backend="chunked"),
        (u, delta, A, B, C),
    )


def test_blocks_of_channels_in_the_backward_pass_change_nothing(scan_2d_inputs, monkeypatch):
    from semillie_core.scan import chunked

    def gradients():
        inputs = [t.requires_grad_() for t in scan_2d_inputs(2, 5, 6, 7, 3, 2)]
        selective_scan_2d(*inputs, backend="chunked").square().sum().backward()
        return [t.grad for t in inputs]

    whole = gradients()
    monkeypatch.setattr(chunked, "_BACKWARD_STATE_BYTES", 1)
    for one_by_one, together in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(one_by_one, together)


def test_extreme_steps_stay_finite():
    u = torch.ones(1, 1, 50)
    A = torch.tensor([[-1.0, -16.0]])
    B = C = torch.ones(1, 2, 50)
    for delta in (-200.0, 200.0):
        y = selective_scan(u, torch.full_like(u, delta), A, B, C, delta_softplus=True, backend="chunked")
        assert torch.isfinite(y).all()


def test_nan_spreads_forward_in_time_and_no_further():
    u = torch.ones(1, 2, 20)
    u[0, 1, 10] = torch.nan
    B = C = torch.ones(1, 3, 20)
    y = selective_scan(
        u, torch.zeros_like(u), -torch.ones(2, 3), B, C, delta_softplus=True, backend="chunked"
    )
    assert torch.isfinite(y[0, 0]).all()
    assert torch.isfinite(y[0, 1, :10]).all()
    assert torch.isnan(y[0, 1, 10:]).all()


def test_half_precision_is_computed_in_float32(scan_2d_inputs, scan_2d_reference):
    inputs = scan_2d_inputs(1, 6, 7, 4, 3, 2, dtype=torch.float32)
    half = tuple(t.bfloat16() for t in inputs)
    y = selective_scan_2d(*half)
    assert y.dtype == torch.bfloat16
    expected = scan_2d_reference(*(t.float() for t in half))
    torch.testing.assert_close(y.float(), expected.bfloat16().float(), atol=0.05, rtol=0.01)


@pytest.mark.parametrize("kind", ["privateuseone", "vulkan", "meta", "cpu"])
def test_devices_without_autocast_are_no_error(kind):
    with full_precision(torch.device(kind)):
        pass


def test_shapes_are_found_without_data(scan_2d_inputs):
    inputs = [t.to("meta") for t in scan_2d_inputs(2, 5, 4, 3, 2, 1, dtype=torch.float32)]
    assert selective_scan_2d(*inputs, backend="chunked").shape == (2, 5, 4, 3)


def test_autocast_does_not_reach_the_scan(scan_2d_inputs):
    inputs = scan_2d_inputs(1, 5, 4, 3, 2, 1, dtype=torch.float32)
    expected = selective_scan_2d(*inputs, backend="chunked")
    run = torch.compile(selective_scan_2d, backend="aot_eager", fullgraph=True)
    for function in (selective_scan_2d, run):
        torch.testing.assert_close(function(*inputs, backend="chunked"), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.is_autocast_enabled("cpu")
            torch.testing.assert_close(function(*inputs, backend="chunked"), expected)
            assert torch.is_autocast_enabled("cpu")


def test_is_deterministic(scan_2d_inputs):
    inputs = scan_2d_inputs(2, 9, 11, 6, 4, 2, dtype=torch.float32)
    assert torch.equal(selective_scan_2d(*inputs), selective_scan_2d(*inputs))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"u": torch.zeros(1, 2)}, "u and delta"),
        ({"A": torch.zeros(3, 4)}, "A must be"),
        ({"B": torch.zeros(1, 4, 9)}, "B and C"),
        ({"B": torch.zeros(1, 3, 4, 5), "C": torch.zeros(1, 3, 4, 5)}, "B and C"),
        ({"D": torch.zeros(3)}, "D must be"),
        ({"delta_bias": torch.zeros(1)}, "delta_bias must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, named):
    arguments = {
        "u": torch.zeros(1, 2, 5),
        "delta": torch.zeros(1, 2, 5),
        "A": torch.zeros(2, 4),
        "B": torch.zeros(1, 4, 5),
        "C": torch.zeros(1, 4, 5),
    }
    with pytest.raises(ValueError, match=named):
        selective_scan(**{**arguments, **change})


def test_2d_shapes_that_do_not_fit_are_named(scan_2d_inputs):
    inputs = list(scan_2d_inputs(1, 2, 2, 3, 2, 1))
    inputs[3] = inputs[3][:, :2]
    with pytest.raises(ValueError, match="dt_projs_bias"):
        selective_scan_2d(*inputs)


def test_backends_are_chosen_by_name_and_by_environment(monkeypatch):
    cpu = torch.device("cpu")
    assert available_backends()["chunked"] is None
    assert resolve_backend(cpu, torch.float64).name == "chunked"
    with pytest.raises(ValueError, match=r"no-such.*Known: .*chunked"):
        resolve_backend(cpu, torch.float32, name="no-such")
    monkeypatch.setenv(BACKEND_ENV, "no-such")
    with pytest.raises(ValueError, match=BACKEND_ENV):
        resolve_backend(cpu, torch.float32)
    monkeypatch.setenv(BACKEND_ENV, "chunked")
    assert resolve_backend(cpu, torch.float32).name == "chunked"
