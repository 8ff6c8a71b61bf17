"""The Triton backend against the recurrence in float64: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from semillie_core.scan import operators, triton_scan

ON_GPU = triton_scan.unavailable_reason() is None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
here = pytest.mark.skipif(
    not (ON_GPU or INTERPRETED), reason="runs in the process of test_in_the_interpreter"
)


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="the other tests of this file run in this process")
def test_in_the_interpreter():
    """Triton decides when it is first imported whether it interprets, so that takes a process of its own."""
    pytest.importorskip("triton", reason="the package triton is not installed")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        __file__,
    ]
    result = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="takes a process of its own")
def test_the_benchmark_runs_in_the_interpreter():
    pytest.importorskip("triton", reason="the package triton is not installed")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.scan_gpu"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("forward") == 4


@pytest.fixture
def scan(monkeypatch):
    """The backend with chunks so small that every boundary occurs, and its device."""
    # In the interpreter the kernels take what is on the CPU, which the choice of backends would not let through.
    monkeypatch.setattr(operators, "_module", lambda *choice: triton_scan)
    monkeypatch.setattr(operators, "_choose", lambda *choice: "triton")
    monkeypatch.setattr(triton_scan, "_CHUNK", 16 if ON_GPU else 4)
    monkeypatch.setattr(triton_scan, "_CHANNEL_BLOCK", 16 if ON_GPU else 2)
    return partial(operators.run_scan_2d, backend="triton"), "cuda" if ON_GPU else "cpu"


@here
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "states", "rank"),
    [(1, 1, 1, 1, 1, 1), (2, 3, 5, 3, 2, 1), (1, 7, 1, 5, 3, 2)],
)
def test_matches_the_recurrence(
    scan, scan_2d_reference, scan_2d_inputs, batch, height, width, channels, states, rank
):
    run, device = scan
    exact = [t.requires_grad_() for t in scan_2d_inputs(batch, height, width, channels, states, rank)]
    leaves = [t.detach().float().to(device).requires_grad_() for t in exact]
    x, x_proj, weight, bias, A_logs, D = leaves
    y = run(x, x_proj, weight, bias, -torch.exp(A_logs), D)
    expected = scan_2d_reference(*exact)
    grad_y = torch.randn_like(expected)
    expected.backward(grad_y)
    y.backward(grad_y.float().to(device))
    for actual, wanted in zip(
        [y.detach(), *(t.grad for t in leaves)], [expected.detach(), *(t.grad for t in exact)], strict=True
    ):
        scale = float(wanted.abs().max()) or 1.0
        torch.testing.assert_close(actual.cpu().double() / scale, wanted / scale, atol=1e-5, rtol=0)


@here
def test_large_steps_forget_and_small_steps_keep(scan, scan_2d_reference, scan_2d_inputs):
    run, device = scan
    x, x_proj, weight, _, A_logs, D = scan_2d_inputs(1, 3, 3, 2, 1, 1)
    for bias in (-60.0, 60.0):
        steps = torch.full((4, 2), bias, dtype=torch.float64)
        expected = scan_2d_reference(x, x_proj, weight, steps, A_logs, D)
        tensors = [t.float().to(device) for t in (x, x_proj, weight, steps, -torch.exp(A_logs), D)]
        torch.testing.assert_close(run(*tensors).cpu().double(), expected, rtol=1e-5, atol=1e-5)
