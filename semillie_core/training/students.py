"""What can be student and teacher: our network, or any module that maps images to images of the same size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import atomic_write
from ..inference.tiling import blend_tiles
from ..network import SemiLLIE
from ..weights import load_model, save_model
from .config import TrainConfig
from .errors import TrainingError

LARGEST_WHOLE = 1 << 20
"""Pixels up to which a photo is enhanced in one piece."""
_TILE = 1024


class View(NamedTuple):
    """A batch of crops and where they lie in their frames."""

    image: Tensor
    """``(B, 3, S, S)`` in [0, 1]."""
    thumbnail: Tensor
    """``(B, 3, h, w)``, the whole frames."""
    region: Tensor
    """``(B, 4)``, as in :class:`semillie_core.data.Batch`."""


class Enhanced(NamedTuple):
    """What a student or teacher makes of a view."""

    image: Tensor
    """``(B, 3, S, S)``, not clamped."""
    illumination: Tensor | None
    """The brightened image, from networks with a thumbnail."""


def build_student(config: TrainConfig) -> nn.Module:
    """The untrained network, or what ``init`` or ``spandrel`` names.

    Raises:
        TrainingError: The checkpoint does not fit, or spandrel is missing or does not know it.
    """
    if config.spandrel:
        return _spandrel_network(config.spandrel)
    network = SemiLLIE(config.network)
    if config.init:
        trained = load_model(config.init).network
        # Dropping paths is a matter of training alone.
        if replace(trained.config, drop_path_rate=config.network.drop_path_rate) != config.network:
            raise TrainingError(
                f"init {config.init} is another network than the config's: {trained.config} and {config.network}. "
                "Change network."
            )
        network.load_state_dict(trained.state_dict())
    return network


def _spandrel_network(path: str) -> nn.Module:
    try:
        import spandrel
    except ImportError as error:
        raise TrainingError(
            "Training another architecture needs the package spandrel: pip install spandrel."
        ) from error
    descriptor = spandrel.ModelLoader().load_from_file(path)
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.scale != 1:
        raise TrainingError(f"{path} is no 1x image restoration network ({descriptor.architecture.name}).")
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise TrainingError(f"{path} does not map RGB to RGB.")
    sizes = descriptor.size_requirements
    if sizes.square:
        raise TrainingError(f"{path} works on square images only ({descriptor.architecture.name}).")
    module: nn.Module = descriptor.model
    # As an attribute, not a wrapper: the exported weights keep the names that spandrel knows.
    module.input_sizes = (sizes.minimum, sizes.multiple_of)  # type: ignore[assignment]
    return module.float().requires_grad_(True).train()


def recompute_blocks(student: nn.Module) -> None:
    """Have a network's blocks computed again in the backward pass instead of stored.

    Raises:
        TrainingError: It is another architecture than ours.
    """
    if not isinstance(student, SemiLLIE):
        raise TrainingError("runtime.checkpoint_blocks works with Semi-LLIE networks only.")
    student.checkpoint_blocks = True


def uses_all_weights(student: nn.Module) -> bool:
    """Whether every weight that learns is known to have a part in every output.

    In our network it has, whatever the options; of other modules, and of classes derived from it, that is not known.
    """
    return type(student) is SemiLLIE


def save_network(path: Path, network: nn.Module, provenance: dict[str, str]) -> None:
    """Write a student's or teacher's weights as safetensors, ours as :func:`save_model` does."""
    if isinstance(network, SemiLLIE):
        save_model(path, network, provenance)
        return
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(tensors, provenance))


def enhance_view(network: nn.Module, view: View) -> Enhanced:
    """Run a student or teacher over crops.

    Args:
        network: Ours, or any module from images to images.
        view: The crops.

    Raises:
        TrainingError: The module returns something else than images of the input's size.
    """
    if not isinstance(network, SemiLLIE):
        return Enhanced(_enhance_padded(network, view.image), None)
    if not network.config.thumbnail:
        return Enhanced(network(view.image).image, None)
    prediction = network(view.image, network.estimate_frame(view.thumbnail), view.region)
    return Enhanced(prediction.image, prediction.illumination)


def enhance_photo(network: nn.Module, photo: Tensor) -> Tensor:
    """Run a student or teacher over whole photos ``(B, 3, H, W)``; large ones in tiles, so that memory stays bounded.

    Raises:
        TrainingError: As :func:`enhance_view`.
    """
    edge = _TILE if photo.shape[2] * photo.shape[3] > LARGEST_WHOLE else None
    # Every tile is told of the whole frame, so that they agree on its exposure.
    return blend_tiles(
        photo, edge, lambda tile, region: enhance_view(network, View(tile, photo, region)).image
    )


def _enhance_padded(network: nn.Module, image: Tensor) -> Tensor:
    """Run a network that may be particular about sizes (``input_sizes``: the least edge, and what divides edges)."""
    least, divisor = getattr(network, "input_sizes", (1, 1))
    height, width = image.shape[2:]
    down, right = (max(least, -(-edge // divisor) * divisor) - edge for edge in (height, width))
    padded = F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image
    output = network(padded)
    if not isinstance(output, Tensor) or output.shape != padded.shape:
        raise TrainingError(f"{type(network).__name__} does not return images of its input's size.")
    return output[:, :, :height, :width]
