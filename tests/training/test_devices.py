"""Where a run computes, on devices that need not be there."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from semillie_core.data import sampling
from semillie_core.training import Phase, trainer
from semillie_core.training.checkpoint import random_state, set_random_state
from semillie_core.training.distributed import this_process


@pytest.fixture
def apple(monkeypatch):
    """A machine with an Apple GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_one_process_takes_the_gpu_that_commands_take(apple, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, device in (("auto", "mps"), ("cpu", "cpu"), ("xpu:1", "xpu:1")):
        with this_process(name) as process:
            assert process.device == torch.device(device)


def test_several_processes_take_what_they_can_meet_on(apple, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with this_process("auto") as process:
        assert process.device == torch.device("cpu")


@pytest.mark.parametrize("name", ["cpu", "cuda:1", "mps", "xpu:1"])
def test_the_generator_of_the_device_is_resumed(monkeypatch, name):
    device, generator = torch.device(name), torch.Generator().manual_seed(3)
    asked = []
    if device.type != "cpu":
        module = torch.get_device_module(device)

        def get(*where):
            asked.extend(where)
            return generator.get_state()

        def put(state, *where):
            asked.extend(where)
            generator.set_state(state)

        monkeypatch.setattr(module, "get_rng_state", get)
        monkeypatch.setattr(module, "set_rng_state", put)
    state = random_state(device)
    expected = torch.rand(3), torch.rand(3, generator=generator)
    set_random_state(state, device)
    again = torch.rand(3), torch.rand(3, generator=generator)
    assert torch.equal(again[0], expected[0])
    assert torch.equal(again[1], expected[1]) == (device.type != "cpu")
    assert set(asked) == ({device} if device.index else set())
    # A run may go on on another kind of device.
    set_random_state(random_state(torch.device("cpu")), device)


def test_pictures_are_made_of_what_is_on_the_device(config, monkeypatch):
    moved, shown = [], []

    def to_device(data, device):
        moved.append(sampling.to_device(data, device))
        return moved[-1]

    monkeypatch.setattr(trainer, "to_device", to_device)
    monkeypatch.setattr(trainer, "write_progress", lambda folder, step, data, networks: shown.append(data))
    short = dataclasses.replace(config, phases=(Phase(2, 1, 16),), val_every=0, pictures_every=1)
    trainer.train(short)
    assert len(shown) == 2
    assert all(data is there for data, there in zip(shown, moved, strict=True))
