"""ComfyUI services that the nodes share: devices, memory, progress, cancelling."""

from __future__ import annotations

import math
import time
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import torch
import torch.nn.functional as F
from PIL import Image
from server import PromptServer
from torch import Tensor, nn

from ..semillie_core.inference import is_out_of_memory
from ..semillie_core.inference.memory import free_memory, pick_tile, working_memory
from ..semillie_core.ram import SemanticModel
from ._types import LoadedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

AUTO, OFF = "auto", "off"
"""Of the input tiling."""

LOWEST_VALUE, HIGHEST_VALUE = -1.0, 4.0
"""Sharpening and resampling leave [0, 1] a little; beyond these bounds the values are on another scale."""

PREVIEW_SIDE = 512
PREVIEW_INTERVAL = 0.25


def managed(module: nn.Module) -> Any:
    """Hand a module to ComfyUI, which then decides when it is on the GPU."""
    return comfy.model_patcher.CoreModelPatcher(
        module, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )


def load(patcher: Any, memory_required: float) -> None:
    """Have ComfyUI make room for a network and this many bytes beside it, and load the network as a whole."""
    # Only layers that ComfyUI built compute with weights that are elsewhere; these are PyTorch's own.
    mm.load_models_gpu([patcher], memory_required=memory_required, force_full_load=True)
    # With --novram ComfyUI leaves the weights where they are even so.
    patcher.model.to(patcher.load_device)


def load_and_pick_tile(tiling: str, model: LoadedModel, height: int, width: int, per_pass: int) -> int | None:
    """Have ComfyUI load the network and make room for the work, then see what the room suffices for."""
    config, device = model.model.config, model.patcher.load_device
    tile = None if tiling in (AUTO, OFF) else int(tiling)
    area = height * width if tile is None else min(tile, height) * min(tile, width)
    load(model.patcher, min(working_memory(config, area * per_pass), int(mm.get_total_memory(device))))
    if tiling != AUTO:
        return tile
    # By the patcher: with dynamic VRAM other models stay until their memory is needed, and it counts theirs as free.
    free = int(model.patcher.get_free_memory(device) - mm.extra_reserved_memory())
    if mm.is_device_cpu(device):
        # ComfyUI counts the whole machine's memory, also where a container may not use all of it.
        free = min(free, free_memory(device))
    return pick_tile(config, height, width, free // per_pass)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; if so, what ComfyUI holds in reserve is given back."""
    if not (isinstance(error, mm.OOM_EXCEPTION) or is_out_of_memory(error)):
        return False
    mm.soft_empty_cache()
    return True


def tagging_memory(model: SemanticModel, images: int) -> int:
    """Bytes that tagging this many images at once needs beside the weights."""
    return images * (2**29 if model.is_ram else 2**26)


def check_images(name: str, images: Tensor) -> None:
    """See to it that an IMAGE can be worked with: ``(B, H, W, C)``, not empty, 1, 3 or 4 channels, about [0, 1].

    Raises:
        ValueError: It cannot; the message names the input, what is wrong and what to do.
    """
    problem = None
    if images.dim() != 4 or images.shape[-1] not in (1, 3, 4):
        problem = (
            f"has the shape {tuple(images.shape)}: connect pictures (B, H, W, C) with C 1, 3 or 4 channels"
        )
    elif 0 in images.shape:
        problem = f"holds no picture, its shape is {tuple(images.shape)}: see why the node before gives none"
    elif not images.is_floating_point():
        problem = f"holds {images.dtype} values: convert them to floating point between 0 and 1"
    else:
        # Picture by picture, and without a map of what is finite: a clip is large, and NaN shows in the extremes.
        extremes = [picture.aminmax() for picture in images]
        low = float(torch.stack([found.min for found in extremes]).min())
        high = float(torch.stack([found.max for found in extremes]).max())
        if not (math.isfinite(low) and math.isfinite(high)):
            problem = (
                "holds NaN or infinite values: see which node before makes them, often one in half precision"
            )
        elif low < LOWEST_VALUE or high > HIGHEST_VALUE:
            problem = f"has values from {low:g} to {high:g}: scale them to 0 to 1"
    if problem:
        raise ValueError(f"{name} {problem}.")


def colour(image: Tensor) -> Tensor:
    """ComfyUI's IMAGE ``(B, H, W, C)`` as ``(B, 3, H, W)`` in [0, 1]: grey becomes colour, transparency is dropped."""
    channels_first = image.movedim(-1, 1)
    three = channels_first[:, :3] if image.shape[-1] >= 3 else channels_first[:, :1].expand(-1, 3, -1, -1)
    return three.clamp(0, 1).contiguous()


def mask_for(mask: Tensor, image: Tensor) -> Tensor:
    """A MASK as the core wants it for an IMAGE ``(B, H, W, C)``: ``(B or 1, H, W)`` in [0, 1], stretched to the image.

    Raises:
        ValueError: There are neither one nor as many masks as images.
    """
    count, height, width, _ = image.shape
    masks = mask.reshape(-1, 1, *mask.shape[-2:])
    if len(masks) not in (1, count) or 0 in masks.shape:
        raise ValueError(f"mask holds {len(masks)} masks for {count} images: connect one, or as many.")
    masks = masks.float().nan_to_num(nan=0.0).clamp(0, 1)
    if masks.shape[-2:] != (height, width):
        masks = F.interpolate(masks, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
    return masks.squeeze(1)


def finished(image: Tensor) -> Tensor:
    """``(B, C, H, W)`` result as ComfyUI's IMAGE: ``(B, H, W, C)`` on its device for results, in its type."""
    # ComfyUI 0.18 brought half-precision intermediates; before it they are always float32.
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    return image.movedim(1, -1).to(device=mm.intermediate_device(), dtype=dtype).contiguous()


def show_text(node_id: str, text: str) -> None:
    """Show a text on the node itself."""
    PromptServer.instance.send_progress_text(text, node_id, PromptServer.instance.client_id)


class Progress:
    """Progress of a node in the shape the core reports it; ends the work as soon as the user cancels."""

    def __init__(self) -> None:
        """Start with nothing shown: the core's first report says how much there is to do."""
        self._bar: Any = None
        self._shown = 0.0

    def __call__(self, done: int, total: int, preview: Tensor | None = None) -> None:
        """Report ``done`` of ``total`` steps, with an optional picture ``(C, H, W)`` in [0, 1].

        Raises:
            comfy.model_management.InterruptProcessingException: the user cancelled.
        """
        # The bar looks for a cancel too, but only when it sends, and it skips most reports.
        mm.throw_exception_if_processing_interrupted()
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        picture = None
        now = time.monotonic()
        if preview is not None and (done == total or now - self._shown >= PREVIEW_INTERVAL):
            self._shown = now
            picture = ("JPEG", _thumbnail(preview), PREVIEW_SIDE)
        self._bar.update_absolute(done, total, picture)


def _thumbnail(image: Tensor) -> Image.Image:
    step = max(1, max(image.shape[-2:]) // PREVIEW_SIDE)
    small = image[:3, ::step, ::step].float().clamp(0, 1).mul(255).round().byte().cpu()
    if small.shape[0] == 1:
        return Image.fromarray(small[0].numpy())
    return Image.fromarray(small.movedim(0, -1).contiguous().numpy())
