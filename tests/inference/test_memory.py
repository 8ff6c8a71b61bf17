"""How much memory is free, and the tiles that fit into it."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
import torch

from semillie_core.inference import memory
from semillie_core.inference.memory import TILES, free_memory, pick_tile, working_memory
from semillie_core.network import BASE, COMPACT, PAPER

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 1000 MiB free; returns the function that writes its files."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))

    write("proc/meminfo", f"MemTotal: 9999999 kB\nMemFree: 5 kB\nMemAvailable: {1000 * 1024} kB\n")
    return write


def test_the_system_tells(system):
    assert free_memory(CPU) == 1000 * MIB


@pytest.mark.parametrize("path", ["/", "/docker/0123"])
def test_a_container_has_less(system, path):
    """Its own group is the root it sees, whatever the path."""
    system("proc/self/cgroup", f"0::{path}\n")
    system("cgroup/memory.max", 500 * MIB)
    system("cgroup/memory.current", 200 * MIB)
    assert free_memory(CPU) == 300 * MIB
    system("cgroup/memory.stat", f"anon 5\ninactive_file {50 * MIB}\n")
    assert free_memory(CPU) == 350 * MIB
    system("cgroup/memory.max", "max\n")
    assert free_memory(CPU) == 1000 * MIB
    system("cgroup/memory.max", 100 * MIB)
    assert free_memory(CPU) == 0


def test_the_tightest_of_nested_limits_counts(system):
    system("proc/self/cgroup", "0::/user.slice/job\n")
    for folder, limit in (("user.slice", 400), ("user.slice/job", "max"), ("", 600)):
        system(f"cgroup/{folder}/memory.max", limit if limit == "max" else limit * MIB)
        system(f"cgroup/{folder}/memory.current", 100 * MIB)
    assert free_memory(CPU) == 300 * MIB


def test_limits_of_the_first_version(system):
    system("proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    system("cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    system("cgroup/memory/memory.usage_in_bytes", 900 * MIB)
    assert free_memory(CPU) == 1000 * MIB
    system("cgroup/memory/job/memory.limit_in_bytes", 300 * MIB)
    system("cgroup/memory/job/memory.usage_in_bytes", 100 * MIB)
    assert free_memory(CPU) == 200 * MIB


@pytest.mark.parametrize(("physical", "commit"), [(700, 800), (800, 700)])
def test_windows_tells(tmp_path, monkeypatch, physical, commit):
    def tell(pointer):
        status = pointer._obj
        assert status.length == ctypes.sizeof(status) == 64
        status.available_physical, status.available_commit = physical * MIB, commit * MIB
        return 1

    monkeypatch.setattr(memory, "_PROC", tmp_path)
    kernel32 = SimpleNamespace(GlobalMemoryStatusEx=tell)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    assert free_memory(CPU) == 700 * MIB


def test_intel_gpus_tell_where_they_can(monkeypatch):
    gpu = torch.device("xpu", 0)
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda _: (300 * MIB, 900 * MIB), raising=False)
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda _: 50 * MIB)
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda _: 20 * MIB)
    assert free_memory(gpu) == 330 * MIB

    def untold(_):
        raise RuntimeError("The device does not support querying the available free memory.")

    monkeypatch.setattr(torch.xpu, "mem_get_info", untold)
    assert free_memory(gpu) == memory._UNKNOWN_MEMORY
    monkeypatch.delattr(torch.xpu, "mem_get_info")
    assert free_memory(gpu) == memory._UNKNOWN_MEMORY


def test_nvidia_and_apple_gpus_tell(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (300 * MIB, 900 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 50 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20 * MIB)
    assert free_memory(torch.device("cuda", 0)) == 330 * MIB
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 700 * MIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 200 * MIB)
    assert free_memory(torch.device("mps")) == 500 * MIB


def test_where_the_system_does_not_tell_half_of_the_memory_counts_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.delattr(ctypes, "windll", raising=False)
    amounts = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", amounts.__getitem__, raising=False)
    assert free_memory(CPU) == 1000 * 4096 // 2
    monkeypatch.delattr(memory.os, "sysconf")
    assert free_memory(CPU) == memory._UNKNOWN_MEMORY


def test_a_megapixel_takes_what_the_readme_says():
    compact, base, paper = (working_memory(config, 10**6) / 1e9 for config in (COMPACT, BASE, PAPER))
    assert compact == pytest.approx(1.1, rel=0.05)
    assert base == paper == pytest.approx(20 * compact, rel=0.05)


def test_the_memory_of_the_machine_says_nothing_about_other_devices(system):
    assert free_memory(torch.device("privateuseone")) == memory._UNKNOWN_MEMORY


def test_tiles_leave_room_for_the_frame():
    height, width = 9000, 12000
    tile = working_memory(COMPACT, 1024 * 1024)
    assert pick_tile(COMPACT, height, width, working_memory(COMPACT, height * width)) is None
    assert pick_tile(COMPACT, height, width, tile + 60 * height * width) == 1024
    assert pick_tile(COMPACT, height, width, tile + 59 * height * width) == 768
    assert pick_tile(COMPACT, height, width, tile) == TILES[-1]
