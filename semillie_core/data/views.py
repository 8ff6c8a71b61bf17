"""What is done to the light in a photo: simulated darkness, jitter, and the student's strong view.

Everything works on one image ``(3, H, W)`` in [0, 1], sRGB, and draws from the generator it is given. Exposure, colour
of light and noise act in linear light, where cameras meet them.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..colour import linear_to_srgb, luma, srgb_to_linear
from .config import DataConfig, StrongViewConfig
from .random import chance, integer, uniform
from .sensor import simulate_low_light

# Rec. 601 as torchvision rounds it, whose augmentations the strong view follows.
_GREY = torch.tensor([0.2989, 0.587, 0.114])
_BLUR_KERNELS, _BLUR_SHARES = (1, 3, 5), (0.406, 0.402, 0.192)


def darken(reference: Tensor, config: DataConfig, generator: torch.Generator) -> Tensor:
    """Photograph a well-lit picture as if at night.

    Args:
        reference: The picture.
        config: Exposures, and how often darkness is uneven or spares what is bright, and the camera adds softness and
            compression.
        generator: Source of randomness.
    """
    exposure = uniform(generator, *config.exposure_ev)
    if chance(generator, config.backlit):
        light = srgb_to_linear(reference) * 2 ** (exposure * (1 - _bright_areas(reference, generator)))
        reference, exposure = linear_to_srgb(light), 0.0
    if exposure and chance(generator, config.uneven_light):
        cells = (2 + integer(generator, 3), 2 + integer(generator, 3))
        grid = torch.rand(1, 1, *cells, generator=generator)
        field = F.interpolate(grid, reference.shape[1:], mode="bicubic", align_corners=True)[0].clamp(0, 1)
        light = srgb_to_linear(reference) * 2 ** (exposure + field * min(4.0, -exposure))
        reference, exposure = linear_to_srgb(light.clamp(0, 1)), 0.0
    dark = simulate_low_light(
        reference,
        exposure_ev=exposure,
        full_well_electrons=10 ** uniform(generator, 3.3, 4.3),
        read_noise_electrons=uniform(generator, 1.0, 6.0),
        white_balance_gains=[uniform(generator, 0.85, 1.15), 1.0, uniform(generator, 0.85, 1.15)],
        generator=generator,
    )
    # What cameras do after the sensor: demosaicing correlates the noise, JPEG coarsens it.
    if chance(generator, config.camera):
        dark = blur(dark, uniform(generator, 0.3, 0.9))
    if chance(generator, config.camera):
        dark = _recompress(dark, int(uniform(generator, 75, 98)))
    return dark


def _bright_areas(image: Tensor, generator: torch.Generator) -> Tensor:
    """Where a picture is bright, ``(1, H, W)`` in [0, 1]: by pixel or softly, from mid-grey up or near white only."""
    size = image.shape[1:]
    cell = 2 ** uniform(generator, 0.0, math.log2(max(1.0, min(size) / 12)))
    grey = F.interpolate(_to_grey(image)[None], [max(1, round(s / cell)) for s in size], mode="area")
    smooth = F.interpolate(grey, size, mode="bilinear", align_corners=False)[0]
    start = uniform(generator, 0.4, 0.65)
    return ((smooth - start) / 0.25).clamp(0, 1)


def relight(image: Tensor, stops: float, colour: float, generator: torch.Generator) -> Tensor:
    """Change exposure by up to ``stops`` either way, and red and blue light by up to the fraction ``colour``."""
    red, blue, exposure = (torch.rand(3, generator=generator) * 2 - 1).tolist()
    if not stops and not colour:
        return image
    gains = image.new_tensor([1 + colour * red, 1.0, 1 + colour * blue]) * 2 ** (stops * exposure)
    return _scale_light(image, gains)


def recolour(low: Tensor, high: Tensor, amount: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Photograph both pictures of a pair in light of another colour.

    Args:
        low: The dark photo.
        high: Its reference, whose mean luminance stays.
        amount: Red and blue light gain or lose up to a factor of ``1 + amount``.
        generator: Source of randomness.
    """
    red, blue = ((torch.rand(2, generator=generator) * 2 - 1) * math.log1p(amount)).exp().tolist()
    gains = high.new_tensor([red, 1.0, blue])
    light = srgb_to_linear(high)
    before, after = (_to_grey(x).mean().clamp_min(1e-6) for x in (light, light * gains[:, None, None]))
    gains = gains * (before / after)
    return _scale_light(low, gains), _scale_light(high, gains)


def resaturate(low: Tensor, high: Tensor, amount: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Photograph a scene of stronger or weaker colours, for both pictures of a pair.

    Args:
        low: The dark photo.
        high: Its reference.
        amount: Differences from grey change by up to a factor of ``1 + amount``, in linear light.
        generator: Source of randomness.
    """
    factor = math.exp(uniform(generator, -1.0, 1.0) * math.log1p(amount))

    def change(image: Tensor) -> Tensor:
        light = srgb_to_linear(image)
        grey = luma(light[None])[0]
        return linear_to_srgb((grey + factor * (light - grey)).clamp(0, 1))

    return change(low), change(high)


def _scale_light(image: Tensor, gains: Tensor) -> Tensor:
    """Multiply red, green and blue light by ``gains``, ``(3,)``."""
    return linear_to_srgb((srgb_to_linear(image) * gains[:, None, None]).clamp(0, 1))


@dataclass(frozen=True)
class StrongView:
    """A strong view in two steps: what holds for the whole frame, and what is drawn anew for every pixel."""

    config: StrongViewConfig

    def of_frame(self, frame: Tensor, generator: torch.Generator) -> Tensor:
        """Exposure and colour of light (camera), or colour jitter and grey (released)."""
        if self.config.kind == "released":
            if chance(generator, 0.8):
                frame = _colour_jitter(frame, generator)
            return _to_grey(frame).expand(3, -1, -1) if chance(generator, 0.2) else frame
        return relight(frame, self.config.exposure_ev, self.config.white_balance, generator)

    def of_crop(self, crop: Tensor, generator: torch.Generator) -> Tensor:
        """Noise and softness (camera), or blur (released)."""
        if self.config.kind == "released":
            if chance(generator, 0.5):
                kernel = int(torch.multinomial(torch.tensor(_BLUR_SHARES), 1, generator=generator))
                crop = blur(crop, uniform(generator, 0.1, 2.0), _BLUR_KERNELS[kernel] // 2)
            return crop
        if chance(generator, self.config.blur):
            crop = blur(crop, uniform(generator, 0.3, 0.9))
        if chance(generator, self.config.noise):
            crop = simulate_low_light(
                crop,
                exposure_ev=0.0,
                full_well_electrons=10 ** uniform(generator, 3.5, 4.5),
                read_noise_electrons=uniform(generator, 1.0, 4.0),
                generator=generator,
            )
        return crop


def blur(image: Tensor, sigma: float, radius: int = 2) -> Tensor:
    """Gaussian blur with reflected borders.

    Args:
        image: ``(3, H, W)`` with sides above ``radius``.
        sigma: Standard deviation in pixels.
        radius: The kernel has ``2 * radius + 1`` taps; 0 changes nothing.
    """
    if radius == 0:
        return image
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    kernel = (taps[:, None] * taps).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(image[None], (radius,) * 4, mode="reflect"), kernel, groups=3)[0]


def _recompress(image: Tensor, quality: int) -> Tensor:
    encoded = io.BytesIO()
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(encoded))).permute(2, 0, 1).float() / 255


def _to_grey(image: Tensor) -> Tensor:
    return (image * _GREY[:, None, None]).sum(0, keepdim=True)


def _colour_jitter(image: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation (factor 0.5 to 1.5) and hue (a quarter turn either way), in random order."""
    for operation in torch.randperm(4, generator=generator).tolist():
        if operation == 3:
            image = _turn_hue(image, uniform(generator, -0.25, 0.25))
            continue
        other = (torch.zeros(()), _to_grey(image).mean(), _to_grey(image))[operation]
        factor = uniform(generator, 0.5, 1.5)
        image = (factor * image + (1 - factor) * other).clamp(0, 1)
    return image


def _turn_hue(image: Tensor, turn: float) -> Tensor:
    """Shift the hue of HSV by a fraction of the full circle."""
    value, brightest = image.max(0)
    chroma = value - image.amin(0)
    r, g, b = image
    safe = chroma.clamp_min(1e-12)
    hue = torch.stack([(g - b) / safe % 6, (b - r) / safe + 2, (r - g) / safe + 4]).gather(
        0, brightest[None]
    )[0]
    hue = (hue / 6 + turn) % 1

    def channel(n: int) -> Tensor:
        k = (n + hue * 6) % 6
        return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)])
