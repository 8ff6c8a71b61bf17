"""The Semi-LLIE network: every member of the family, built from :class:`SemiLLIEConfig`."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import (
    GradientMagnitude,
    IlluminationEstimator,
    ResidualGroup,
    TokenNorm,
    to_image,
    to_tokens,
)
from .config import SemiLLIEConfig
from .thumbnail import FrameIllumination, ThumbnailEstimator, brighten, full_frame, sample_region

IMAGE_MEAN = (0.4488, 0.4371, 0.4040)
"""RGB mean subtracted from the input and added to the output (released code, ``img_range = 1``)."""


class Prediction(NamedTuple):
    """What one forward pass returns."""

    image: Tensor
    """Enhanced image, ``(B, 3, H, W)``, nominally [0, 1] but not clamped."""
    illumination: Tensor
    """The illumination the body was given, ``(B, 3, H, W)``: the paper's unconstrained map, or for a network with
    a thumbnail the brightened image."""


class SemiLLIE(nn.Module):
    """Low-light enhancement network of Semi-LLIE (arXiv 2409.16604).

    An illumination estimator feeds residual groups (MSSG) of state-space blocks (MSSB); the result is added to the
    image. Module and parameter names are those of the released code, so its checkpoints load with
    ``load_state_dict``.

    Two options make small members of the same family. ``downscale`` folds the image into channels before the body.
    ``thumbnail`` replaces the full-resolution estimator by one that sees the whole photo at thumbnail size and
    brightens it with a smooth curve; the body then restores the brightened image. The thumbnail is a property of the
    *frame*: crops and tiles of one photo are lit alike when they share its :class:`FrameIllumination`.

    Args:
        config: What to build; the default is the paper's network.
    """

    def __init__(self, config: SemiLLIEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SemiLLIEConfig()
        self.checkpoint_blocks = False
        """Recompute residual groups in the backward pass instead of storing their activations."""
        C, r = config.embed_dim, config.downscale
        self.conv_first = nn.Conv2d(6 * r * r, C, 3, padding=1)
        self.patch_embed = TokenNorm(C)
        total = sum(config.depths)
        rates = [config.drop_path_rate * i / max(total - 1, 1) for i in range(total)]
        starts = [sum(config.depths[:i]) for i in range(len(config.depths))]
        self.layers = nn.ModuleList(
            ResidualGroup(config, rates[start : start + depth])
            for start, depth in zip(starts, config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(C, eps=1e-5)
        self.get_gradient = GradientMagnitude()
        self.conv_after_body = nn.Conv2d(C, C, 3, padding=1)
        self.conv_last = nn.Conv2d(C, 3 * r * r, 3, padding=1)
        self.estimator: ThumbnailEstimator | IlluminationEstimator
        if config.thumbnail:
            self.estimator = ThumbnailEstimator(config)
            # The brightened image is already an estimate: start from it and learn what to correct.
            nn.init.zeros_(self.conv_last.weight)
            nn.init.zeros_(self.conv_last.bias)  # type: ignore[arg-type]
        else:
            self.estimator = IlluminationEstimator(C)

    def estimate_frame(self, frame: Tensor) -> FrameIllumination | None:
        """Estimate a whole photo's illumination once, to share between its crops or tiles.

        Args:
            frame: The whole photo, ``(B, 3, H, W)`` in [0, 1].

        Returns:
            The illumination at thumbnail resolution, or ``None`` for a network without a thumbnail.
        """
        if not isinstance(self.estimator, ThumbnailEstimator):
            return None
        illumination: FrameIllumination = self.estimator(frame)
        return illumination

    def forward(
        self,
        image: Tensor,
        frame_illumination: FrameIllumination | None = None,
        region: Tensor | None = None,
    ) -> Prediction:
        """Enhance images.

        Args:
            image: ``(B, 3, H, W)`` in [0, 1], any ``H, W >= 1``.
            frame_illumination: From :meth:`estimate_frame` when ``image`` is part of a larger photo; by default the
                image is its own frame.
            region: Where ``image`` lies in that frame, ``(B, 4)`` as top, left, height, width in fractions of the
                frame; the whole frame by default.

        Returns:
            The enhanced images and the illumination used.
        """
        height, width = image.shape[2:]
        # float32 first, as the released code holds it, so that float64 agrees with it to the last digit.
        mean = torch.tensor(IMAGE_MEAN, device=image.device).to(image.dtype).view(1, 3, 1, 1)
        shifted = image - mean
        guide: Tensor | None = None
        if isinstance(self.estimator, ThumbnailEstimator):
            if frame_illumination is None:
                frame_illumination = self.estimator(image)
            if region is None:
                region = full_frame(image)
            base = brighten(image, sample_region(frame_illumination.log_gain, region, (height, width)))
            shown, illumination = base - mean, base
        else:
            base = image
            illumination, guide = self.estimator(shifted)
            shown = illumination

        r = self.config.downscale
        stacked = torch.cat([shifted, shown], dim=1)
        if r > 1:
            # Symbolic sizes of an export are padded always. Known whole ones never: the gradient that torch.compile
            # makes of this padding fails in channels-last memory.
            if not (isinstance(width, int) and isinstance(height, int)) or width % r or height % r:
                # ONNX has the remainder of positive numbers in common with Python, not that of negative ones.
                to_whole_cells = (0, (r - width % r) % r, 0, (r - height % r) % r)
                stacked = F.pad(stacked, to_whole_cells, mode="replicate")
            stacked = F.pixel_unshuffle(stacked, r)
        x0 = self.conv_first(stacked.contiguous(memory_format=torch.channels_last))
        if frame_illumination is not None and region is not None:
            x0 = x0 + sample_region(frame_illumination.features, region, (height, width), stride=r)

        tokens = self.patch_embed(to_tokens(x0))
        for layer in self.layers:
            features = guide if self.config.guided else None
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, features, use_reentrant=False)
            else:
                tokens = layer(tokens, features)
        restored = self.conv_last(self.conv_after_body(to_image(self.norm(tokens))) + x0)
        if r > 1:
            restored = F.pixel_shuffle(restored, r)[:, :, :height, :width]
        return Prediction(base + restored, illumination)
