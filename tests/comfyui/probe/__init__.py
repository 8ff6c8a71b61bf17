"""Nodes that only the tests use: they look inside values, and make a network slow or short of memory."""

import hashlib
import json
import sys
import time
from pathlib import Path

import comfy.model_management
import torch
from comfy_api.latest import ComfyExtension, io, ui


def _handicapped(model, before):
    network = model.patcher.model
    for hook in list(network._forward_pre_hooks):
        network._forward_pre_hooks.pop(hook)
    network.register_forward_pre_hook(before)
    return io.NodeOutput(model)


class Describe(io.ComfyNode):
    """Reports shape, type, range and hash of an image or mask, after ``wait_for`` has been computed."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Describe",
            is_output_node=True,
            inputs=[
                io.MultiType.Input("value", [io.Image, io.Mask]),
                io.AnyType.Input("wait_for", optional=True),
            ],
        )

    @classmethod
    def execute(cls, value, wait_for=None):
        report = {
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "device": str(value.device),
            "min": value.min().item(),
            "max": value.max().item(),
            "mean": value.float().mean().item(),
            "sha256": hashlib.sha256(value.contiguous().cpu().numpy().tobytes()).hexdigest(),
        }
        return io.NodeOutput(ui=ui.PreviewText(json.dumps(report)))


class MakeImage(io.ComfyNode):
    """A deterministic image of any size, batch and number of channels."""

    @classmethod
    def define_schema(cls):
        sizes = [io.Int.Input(name, min=1, max=8192) for name in ("batch", "height", "width", "channels")]
        return io.Schema(
            node_id="Probe_MakeImage",
            inputs=[*sizes, io.Float.Input("level")],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(cls, batch, height, width, channels, level):
        generator = torch.Generator().manual_seed(1)
        image = torch.rand(batch, height, width, channels, generator=generator) * level
        mask = torch.zeros(1, height, width)
        mask[:, :, : width // 2] = 1
        return io.NodeOutput(image, mask)


class Spoil(io.ComfyNode):
    """An image or mask as no node should give it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Spoil",
            inputs=[io.MultiType.Input("value", [io.Image, io.Mask]), io.String.Input("how")],
            outputs=[io.AnyType.Output()],
        )

    @classmethod
    def execute(cls, value, how):
        spoilt = {
            "empty": lambda: value[:0],
            "nan": lambda: value.where(torch.rand(value.shape) > 0.1, torch.nan),
            "infinite": lambda: value.where(torch.rand(value.shape) > 0.1, torch.inf),
            "tripled": lambda: value * 3,
            "codes": lambda: value * 255,
            "integer": lambda: (value * 255).to(torch.uint8),
            "with a channel": lambda: value.unsqueeze(1),
        }
        return io.NodeOutput(spoilt[how]())


class SlowModel(io.ComfyNode):
    """Every forward pass takes ``seconds`` longer and is written to ``log``."""

    @classmethod
    def define_schema(cls):
        model = io.Custom("SEMILLIE_MODEL")
        return io.Schema(
            node_id="Probe_SlowModel",
            inputs=[model.Input("model"), io.Float.Input("seconds"), io.String.Input("log")],
            outputs=[model.Output()],
        )

    @classmethod
    def execute(cls, model, seconds, log):
        def before(_, inputs):
            with Path(log).open("a") as sink:
                sink.write(f"{list(inputs[0].shape)}\n")
            time.sleep(seconds)

        return _handicapped(model, before)


class SlowBlocks(io.ComfyNode):
    """Every block of a network takes ``seconds`` longer and is written to ``log``."""

    @classmethod
    def define_schema(cls):
        model = io.Custom("SEMILLIE_MODEL")
        return io.Schema(
            node_id="Probe_SlowBlocks",
            inputs=[model.Input("model"), io.Float.Input("seconds"), io.String.Input("log")],
            outputs=[model.Output()],
        )

    @classmethod
    def execute(cls, model, seconds, log):
        def before(*_):
            with Path(log).open("a") as sink:
                sink.write("a block\n")
            time.sleep(seconds)

        for block in model.patcher.model.modules():
            if type(block).__name__ == "StateSpaceBlock":
                block.register_forward_pre_hook(before)
        return io.NodeOutput(model)


class SmallMemory(io.ComfyNode):
    """A network that runs out of memory above ``pixels`` input pixels; ``log`` counts forward passes."""

    @classmethod
    def define_schema(cls):
        model = io.Custom("SEMILLIE_MODEL")
        return io.Schema(
            node_id="Probe_SmallMemory",
            inputs=[model.Input("model"), io.Int.Input("pixels"), io.String.Input("log")],
            outputs=[model.Output()],
        )

    @classmethod
    def execute(cls, model, pixels, log):
        def before(_, inputs):
            batch, _, height, width = inputs[0].shape
            with Path(log).open("a") as sink:
                sink.write(f"{list(inputs[0].shape)}\n")
            if batch * height * width > pixels:
                raise torch.OutOfMemoryError("pretended: out of memory")

        return _handicapped(model, before)


class LittleFree(io.ComfyNode):
    """The next question for free memory is answered with ``free``; ``log`` counts forward passes."""

    @classmethod
    def define_schema(cls):
        model = io.Custom("SEMILLIE_MODEL")
        return io.Schema(
            node_id="Probe_LittleFree",
            inputs=[model.Input("model"), io.Int.Input("free", max=2**40), io.String.Input("log")],
            outputs=[model.Output()],
        )

    @classmethod
    def execute(cls, model, free, log):
        original = comfy.model_management.get_free_memory

        def answer(*_, **__):
            comfy.model_management.get_free_memory = original
            return free

        def before(_, inputs):
            with Path(log).open("a") as sink:
                sink.write(f"{list(inputs[0].shape)}\n")

        comfy.model_management.get_free_memory = answer
        return _handicapped(model, before)


class SmallContainer(io.ComfyNode):
    """To the pack, the machine's memory is that of a container that leaves ``free``; ``log`` counts forward passes."""

    @classmethod
    def define_schema(cls):
        model = io.Custom("SEMILLIE_MODEL")
        return io.Schema(
            node_id="Probe_SmallContainer",
            inputs=[model.Input("model"), io.Int.Input("free", max=2**40), io.String.Input("log")],
            outputs=[model.Output()],
        )

    @classmethod
    def execute(cls, model, free, log):
        package = type(model).__module__.removesuffix(".nodes._types")
        memory = sys.modules[f"{package}.semillie_core.inference.memory"]
        original = memory._free_in_cgroups

        def answer():
            memory._free_in_cgroups = original
            return [free]

        def before(_, inputs):
            with Path(log).open("a") as sink:
                sink.write(f"{list(inputs[0].shape)}\n")

        memory._free_in_cgroups = answer
        return _handicapped(model, before)


class FullUntilAsked(io.ComfyNode):
    """Memory is full until ComfyUI is asked for room; then it is free. ``log`` has the request, then the passes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_FullUntilAsked",
            inputs=[io.AnyType.Input("model"), io.String.Input("log")],
            outputs=[io.AnyType.Output()],
        )

    @classmethod
    def execute(cls, model, log):
        mm = comfy.model_management
        load, free = mm.load_models_gpu, mm.get_free_memory

        def write(line):
            with Path(log).open("a") as sink:
                sink.write(f"{line}\n")

        def loading(models, memory_required=0, **options):
            mm.load_models_gpu, mm.get_free_memory = load, free
            write(int(memory_required))
            return load(models, memory_required=memory_required, **options)

        mm.load_models_gpu, mm.get_free_memory = loading, lambda *_, **__: 0
        return _handicapped(model, lambda _, inputs: write(list(inputs[0].shape)))


class Probes(ComfyExtension):
    async def get_node_list(self):
        return [
            Describe,
            MakeImage,
            Spoil,
            SlowModel,
            SlowBlocks,
            SmallMemory,
            LittleFree,
            SmallContainer,
            FullUntilAsked,
        ]


async def comfy_entrypoint():
    return Probes()
