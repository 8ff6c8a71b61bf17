"""The mamba-ssm backend on a stand-in for the package: same arguments and layouts, the recurrence written out."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from semillie_core.scan import backends, mamba, operators


class StandIn(torch.autograd.Function):
    """Mamba's scan, forward and backward by hand, as the package's own Function is."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, bias):
        for tensor in (u, delta, A, B, C, D, bias):
            assert tensor.dtype == torch.float32
        assert u.is_contiguous()
        assert delta.shape == u.shape
        assert B.stride(-1) == C.stride(-1) == 1
        repeat = u.shape[1] // B.shape[1]
        dt = F.softplus(delta + bias[:, None])
        decay = torch.exp(dt[:, :, None] * A[:, :, None])
        rows_B, rows_C = (t.repeat_interleave(repeat, 1) for t in (B, C))
        states = [torch.zeros_like(decay[..., 0])]
        for t in range(u.shape[2]):
            states.append(decay[..., t] * states[-1] + (dt * u)[:, :, None, t] * rows_B[..., t])
        states = torch.stack(states, -1)
        ctx.save_for_backward(u, delta, A, rows_B, rows_C, D, bias, states, decay)
        ctx.groups = B.shape[1]
        return (rows_C * states[..., 1:]).sum(2) + D[:, None] * u

    @staticmethod
    def backward(ctx, grad):
        u, delta, A, B, C, D, bias, states, decay = ctx.saved_tensors
        raw = delta + bias[:, None]
        dt = F.softplus(raw)
        adjoint, following = torch.zeros_like(decay), torch.zeros_like(decay[..., 0])
        for t in reversed(range(u.shape[2])):
            adjoint[..., t] = following + C[..., t] * grad[:, :, None, t]
            following = decay[..., t] * adjoint[..., t]
        exponent = adjoint * decay * states[..., :-1]
        grad_weighted = (adjoint * B).sum(2)
        grad_raw = ((exponent * A[:, :, None]).sum(2) + grad_weighted * u) * torch.sigmoid(raw)

        def by_group(t):
            return t.unflatten(1, (ctx.groups, -1)).sum(2)

        return (
            grad_weighted * dt + D[:, None] * grad,
            grad_raw,
            (exponent * dt[:, :, None]).sum((0, 3)),
            by_group(adjoint * (dt * u)[:, :, None]),
            by_group(grad[:, :, None] * states[..., 1:]),
            (grad * u).sum((0, 2)),
            grad_raw.sum((0, 2)),
        )


@pytest.fixture
def package(monkeypatch):
    def selective_scan_fn(
        u,
        delta,
        A,
        B,
        C,
        D=None,
        z=None,
        delta_bias=None,
        delta_softplus=False,
        return_last_state=False,
    ):
        assert z is None
        assert delta_softplus
        assert not return_last_state
        return StandIn.apply(u, delta, A, B, C, D, delta_bias)

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for module in (
        ModuleType("selective_scan_cuda"),
        ModuleType("mamba_ssm"),
        ModuleType("mamba_ssm.ops"),
        interface,
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def nvidia(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    backends._unavailable_reason.cache_clear()
    yield
    backends._unavailable_reason.cache_clear()


@pytest.mark.parametrize("sizes", [(2, 3, 5, 4, 2, 2), (1, 1, 1, 1, 1, 1), (1, 7, 1, 3, 4, 1)])
def test_matches_the_recurrence(package, scan_2d_reference, scan_2d_inputs, monkeypatch, sizes):
    # On the CPU, which the choice of backends would not let through.
    monkeypatch.setattr(operators, "_module", lambda *choice: mamba)
    monkeypatch.setattr(operators, "_choose", lambda *choice: "mamba")
    exact = [t.requires_grad_() for t in scan_2d_inputs(*sizes)]
    leaves = [t.detach().float().requires_grad_() for t in exact]
    x, x_proj, weight, bias, A_logs, D = leaves
    y = operators.run_scan_2d(x, x_proj, weight, bias, -torch.exp(A_logs), D, backend="mamba")
    expected = scan_2d_reference(*exact)
    grad_y = torch.randn_like(expected)
    expected.backward(grad_y)
    y.backward(grad_y.float())
    found = [y.detach(), *(t.grad for t in leaves)]
    for actual, wanted in zip(found, [expected.detach(), *(t.grad for t in exact)], strict=True):
        scale = float(wanted.abs().max()) or 1.0
        torch.testing.assert_close(actual.double() / scale, wanted / scale, atol=1e-5, rtol=0)


def test_is_chosen_on_nvidia_cards_where_it_loads(package, nvidia):
    assert backends.available_backends()["mamba"] is None
    assert backends.resolve_backend(torch.device("cuda"), torch.float32).name == "mamba"
    # What it does not offer goes to the backend that runs everywhere.
    assert backends.resolve_backend(torch.device("cuda"), torch.float32, form="scan").name == "chunked"
    assert backends.resolve_backend(torch.device("cuda"), torch.float64).name == "chunked"


def test_without_a_card_it_says_so(package, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no NVIDIA GPU" in mamba.unavailable_reason()


def test_a_missing_package_is_named(nvidia):
    assert "'selective_scan_cuda'" in mamba.unavailable_reason()


def test_a_kernel_for_another_torch_is_named(package, nvidia, monkeypatch):
    def refuse(name):
        raise ImportError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(mamba.importlib, "import_module", refuse)
    assert "undefined symbol" in mamba.unavailable_reason()
    assert "build mamba-ssm again" in mamba.unavailable_reason()
