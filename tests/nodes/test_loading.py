"""Where the networks are when the nodes compute, with a ComfyUI that does with memory what the real one does."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import semillie_core.inference.memory
import semillie_core.ram
import semillie_core.weights

GPU = torch.device("meta")  # where weights can be without a GPU
GIB = 1 << 30


class ComputingError(Exception):
    """What the node would now compute is of no interest."""


class Patcher:
    def __init__(self, model: torch.nn.Module, comfyui: SimpleNamespace) -> None:
        self.model, self.load_device, self._comfyui = model, GPU, comfyui

    def get_free_memory(self, device: torch.device) -> int:
        return self._comfyui.free + self._comfyui.evictable


@pytest.fixture
def comfyui(monkeypatch) -> SimpleNamespace:
    """ComfyUI's state: bytes that are free, that models with dynamic VRAM give up on demand and that are kept for other
    programs (``--reserve-vram``), and ``--novram``."""
    state = SimpleNamespace(free=64 * GIB, evictable=0, reserved=0, novram=False)

    def load_models_gpu(models, memory_required=0, minimum_memory_required=None, force_full_load=False):
        for patcher in models:
            if state.novram:
                continue
            if force_full_load or state.free >= 2 * GIB:
                patcher.model.to(patcher.load_device)
                continue
            layers = [layer for layer in patcher.model.modules() if not list(layer.children())]
            for layer in layers[: len(layers) // 2]:
                layer.to(patcher.load_device)

    def module(name: str, **content: object) -> None:
        fake = types.ModuleType(name)
        vars(fake).update(content)
        monkeypatch.setitem(sys.modules, name, fake)

    management = SimpleNamespace(
        load_models_gpu=load_models_gpu,
        get_total_memory=lambda device: 64 * GIB,
        get_free_memory=lambda device: state.free,
        extra_reserved_memory=lambda: state.reserved,
        is_device_cpu=lambda device: device.type == "cpu",
        throw_exception_if_processing_interrupted=lambda: None,
    )
    module("comfy", model_management=management)
    module("comfy.model_management", **vars(management))
    module("comfy.model_patcher")
    module("comfy.utils")
    kind = SimpleNamespace(Input=None, Output=None)
    io = SimpleNamespace(ComfyNode=object, Schema=object, NodeOutput=object, Custom=lambda name: kind)
    module("comfy_api")
    module("comfy_api.latest", io=io, ui=None, ComfyExtension=object)
    module("server", PromptServer=None)
    return state


@pytest.fixture
def node(comfyui, monkeypatch, repository: Path):
    """``node(module)`` imports a module of the nodes, as part of a pack with the core that the tests have."""
    for name, folder in (("pack", repository), ("pack.nodes", repository / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        monkeypatch.setitem(sys.modules, name, package)
    for name in [name for name in sys.modules if name.split(".")[0] == "semillie_core"]:
        monkeypatch.setitem(sys.modules, f"pack.{name}", sys.modules[name])
    yield lambda name: importlib.import_module(f"pack.nodes.{name}")
    for name in [name for name in sys.modules if name.startswith("pack.nodes.")]:
        del sys.modules[name]


def run(node, monkeypatch, name: str, comfyui: SimpleNamespace, size: int = 8) -> dict:
    """Run a node up to where it computes; what it would compute with."""
    module = node(name)
    given: dict = {}

    def compute(*arguments, **options):
        given.update(options)
        raise ComputingError

    picture = torch.zeros(1, 1, 1, 3).expand(1, size, size, 3)
    if name == "enhance":
        model = semillie_core.weights.load_model("semillie-compact")
        monkeypatch.setattr(module, "enhance", compute)
        network, execute = model.network, module.Enhance.execute
        loaded = SimpleNamespace(model=model, patcher=Patcher(network, comfyui))
        arguments: tuple = (loaded, picture, 1.0, 0.0, 1.0, 1.0, "auto", 1)
    else:
        model = semillie_core.ram.load_efficientnet_lite0()
        network = model.encoder
        loaded = SimpleNamespace(model=model, patcher=Patcher(network, comfyui))
        if name == "ram_tag":
            monkeypatch.setattr(module, "tag_images", compute)
            execute, arguments = module.RAMTag.execute, (loaded, picture, 1)
        else:
            monkeypatch.setattr(module, "semantic_drift", compute)
            execute, arguments = module.SemanticDrift.execute, (loaded, picture, picture, 0.0, 0.05, "")
    monkeypatch.setattr(node("_runtime"), "Progress", lambda: None)
    with pytest.raises(ComputingError):
        execute(*arguments)
    return {**given, "devices": {weight.device for weight in network.parameters()}}


@pytest.mark.parametrize("name", ["enhance", "ram_tag", "semantic_drift"])
@pytest.mark.parametrize("how", ["enough", "little", "novram"])
def test_a_network_is_on_the_gpu_as_a_whole(node, monkeypatch, comfyui, name, how):
    comfyui.free, comfyui.novram = GIB if how == "little" else 64 * GIB, how == "novram"
    assert run(node, monkeypatch, name, comfyui)["devices"] == {GPU}


def test_memory_that_other_models_give_up_on_demand_counts_and_reserved_memory_does_not(
    node, monkeypatch, comfyui
):
    comfyui.free, comfyui.evictable = GIB // 4, 16 * GIB
    assert run(node, monkeypatch, "enhance", comfyui, size=1024)["tile"] is None
    comfyui.reserved = 16 * GIB
    assert run(node, monkeypatch, "enhance", comfyui, size=1024)["tile"] is not None
    comfyui.evictable = comfyui.reserved = 0
    assert run(node, monkeypatch, "enhance", comfyui, size=1024)["tile"] is not None


def test_only_pictures_are_sample_photos(node, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "folder_paths", types.ModuleType("folder_paths"))
    module = node("sample_photo")
    assert {"coffee", "meadow-pan", "meadow (well lit)"} < module._photos().keys()
    for name in (
        "a.jpg",
        "README.md",
        "clips/.DS_Store",
        "clips/b.webp",
        "reference/Thumbs.db",
        "reference/a.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(module, "SAMPLES", tmp_path)
    assert list(module._photos()) == ["a", "b", "a (well lit)"]
