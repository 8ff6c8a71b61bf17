"""The operators that torch.compile and torch.export see, for every backend of this machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from semillie_core.scan import BACKEND_ENV, available_backends, selective_scan, selective_scan_2d
from semillie_core.scan.operators import scan, scan_2d

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}"))
    for name, reason in available_backends().items()
]
ON_CPU = [name for name in BACKENDS if name.values[0] in ("native", "chunked")]


def arguments_2d(scan_2d_inputs, *sizes):
    x, x_proj, weight, bias, A_logs, D = scan_2d_inputs(*sizes, dtype=torch.float32)
    return [t.requires_grad_() for t in (x, x_proj, weight, bias, -A_logs.exp(), D)]


def arguments_1d(length, optional=True):
    g = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(2, 6, length, generator=g).requires_grad_() for _ in range(2))
    A = (-torch.rand(6, 3, generator=g)).requires_grad_()
    B, C = (torch.randn(2, 2, 3, length, generator=g).requires_grad_() for _ in range(2))
    D, bias = (torch.randn(6, generator=g).requires_grad_() if optional else None for _ in range(2))
    return [u, delta, A, B, C, D, bias, True]


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("keep", [True, False])
def test_2d_operator_keeps_its_promises(scan_2d_inputs, backend, keep):
    arguments = arguments_2d(scan_2d_inputs, 2, 5, 3, 4, 2, 1)
    if not keep:
        arguments = [t.detach() for t in arguments]
    torch.library.opcheck(scan_2d, (*arguments, backend, keep))


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize(("length", "optional"), [(1, True), (9, False), (70, True)])
def test_1d_operator_keeps_its_promises(backend, length, optional):
    torch.library.opcheck(scan, (*arguments_1d(length, optional), backend, True))


def test_traced_graphs_choose_for_themselves(scan_2d_inputs, monkeypatch):
    inputs = scan_2d_inputs(1, 5, 4, 3, 2, 1, dtype=torch.float32)
    compiled = torch.compile(selective_scan_2d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), selective_scan_2d(*inputs))
    monkeypatch.setenv(BACKEND_ENV, "chunked")
    assert torch.equal(compiled(*inputs), selective_scan_2d(*inputs, backend="chunked"))


@pytest.mark.parametrize("backend", ON_CPU)
def test_compiles_without_a_graph_break_and_gives_the_same(scan_2d_inputs, backend):
    def function(*tensors):
        return selective_scan_2d(*tensors, backend=backend).square().sum()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (function, compiled):
        leaves = [t.requires_grad_() for t in scan_2d_inputs(1, 5, 4, 3, 2, 1, dtype=torch.float32)]
        run(*leaves).backward()
        gradients.append([t.grad for t in leaves])
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", ON_CPU)
def test_compiles_for_any_size(scan_2d_inputs, backend):
    compiled = torch.compile(
        lambda *tensors: selective_scan_2d(*tensors, backend=backend),
        backend="aot_eager",
        fullgraph=True,
        dynamic=True,
    )
    for height, width in ((5, 4), (7, 9), (1, 12)):
        inputs = scan_2d_inputs(1, height, width, 3, 2, 1, dtype=torch.float32)
        torch.testing.assert_close(compiled(*inputs), selective_scan_2d(*inputs, backend=backend))


@pytest.mark.parametrize("backend", ON_CPU)
def test_exports(scan_2d_inputs, backend):
    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return selective_scan_2d(*tensors, backend=backend)

    inputs = scan_2d_inputs(1, 5, 4, 3, 2, 1, dtype=torch.float32)
    program = torch.export.export(Module(), inputs)
    # Autocast is off around the scan, which export represents as a graph within the graph.
    graphs = [m.code for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    assert any("semillie.selective_scan_2d" in code for code in graphs)
    torch.testing.assert_close(program.module()(*inputs), selective_scan_2d(*inputs, backend=backend))


@pytest.mark.parametrize("backend", ON_CPU)
def test_the_last_state_is_traced(backend):
    def function(*tensors):
        y, last = selective_scan(*tensors, return_last_state=True, backend=backend)
        return y.sum() + last.square().sum()

    arguments = arguments_1d(20)
    expected = torch.autograd.grad(function(*arguments), arguments[:7])
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for actual, wanted in zip(
        torch.autograd.grad(compiled(*arguments), arguments[:7]), expected, strict=True
    ):
        torch.testing.assert_close(actual, wanted)


def test_importing_the_scan_loads_no_compiler():
    code = (
        "import sys, semillie_core.scan\n"
        "found = {'torch._inductor.compile_fx', 'triton', 'mamba_ssm', 'semillie_native'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
