"""CIE colour: Lab, colour difference ΔE, and the colour cast of a photo."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..colour import srgb_to_linear
from ..precision import full_precision
from ._images import as_images, as_pair

_LINEAR_SRGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65_WHITE = (0.95047, 1.0, 1.08883)


def linear_to_lab(linear: Tensor) -> Tensor:
    """CIE 1976 L*a*b* (D65, 2° observer) of linear sRGB, ``(B, 3, ...) -> (B, 3, ...)``; L* in [0, 100]."""
    matrix = linear.new_tensor(_LINEAR_SRGB_TO_XYZ) / linear.new_tensor(_D65_WHITE).unsqueeze(1)
    with full_precision(linear.device):
        xyz = torch.einsum("kc,bc...->bk...", matrix, linear)
    delta = 6 / 29
    f = torch.where(xyz > delta**3, xyz.clamp_min(delta**3) ** (1 / 3), xyz / (3 * delta**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIE 1976 L*a*b* (D65, 2° observer) of sRGB images in [0, 1], ``(B, 3, ...) -> (B, 3, ...)``."""
    return linear_to_lab(srgb_to_linear(images))


def delta_e_76(output: Tensor, target: Tensor) -> Tensor:
    """Mean CIE 1976 colour difference of each image: Euclidean distance in L*a*b*.

    Args:
        output: sRGB images to judge, ``(B, 3, H, W)`` in [0, 1].
        target: Their references, same shape.

    Returns:
        ``(B,)``; about 2.3 is just noticeable.

    Raises:
        ValueError: The shapes differ or are not ``(B, 3, H, W)``.
    """
    output, target = as_pair(output, target, channels=(3,))
    difference = rgb_to_lab(output) - rgb_to_lab(target)
    return difference.square().sum(dim=1).sqrt().mean(dim=(1, 2))


def delta_e_2000(output: Tensor, target: Tensor) -> Tensor:
    """Mean CIEDE2000 colour difference of each image, with unit weights kL = kC = kH.

    Formula: Sharma, Wu and Dalal, Color Research & Application 30(1), 2005, equations 2-22.

    Args:
        output: sRGB images to judge, ``(B, 3, H, W)`` in [0, 1].
        target: Their references, same shape.

    Returns:
        ``(B,)``; about 1 is just noticeable.

    Raises:
        ValueError: The shapes differ or are not ``(B, 3, H, W)``.
    """
    output, target = as_pair(output, target, channels=(3,))
    strips = zip(torch.split(output, 256, dim=2), torch.split(target, 256, dim=2), strict=True)
    maps = [ciede2000(rgb_to_lab(o), rgb_to_lab(t)) for o, t in strips]
    return torch.cat(maps, dim=1).mean(dim=(1, 2))


def ciede2000(lab_1: Tensor, lab_2: Tensor) -> Tensor:
    """CIEDE2000 between L*a*b* colours, ``(B, 3, ...)`` and the same shape ``-> (B, ...)``."""
    (l1, a1, b1), (l2, a2, b2) = lab_1.unbind(1), lab_2.unbind(1)
    chroma = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * _saturation(chroma)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1), torch.atan2(b2, a2)

    turn = 2 * math.pi
    grey = (c1 * c2) == 0
    hue_step = torch.remainder(h2 - h1 + math.pi, turn) - math.pi
    hue_step = torch.where(grey, 0.0, hue_step)
    d_l, d_c = l2 - l1, c2 - c1
    d_h = 2 * (c1 * c2).sqrt() * torch.sin(hue_step / 2)

    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    # A grey has no hue: the mean hue is then the other colour's, whose half step is 0 here.
    h_mean = torch.where(grey, torch.where(c1 == 0, h2, h1), h1 + hue_step / 2)

    t = (
        1
        - 0.17 * torch.cos(h_mean - math.radians(30))
        + 0.24 * torch.cos(2 * h_mean)
        + 0.32 * torch.cos(3 * h_mean + math.radians(6))
        - 0.20 * torch.cos(4 * h_mean - math.radians(63))
    )
    lightness = (l_mean - 50).square()
    s_l = 1 + 0.015 * lightness / (20 + lightness).sqrt()
    s_c = 1 + 0.045 * c_mean
    s_h = 1 + 0.015 * c_mean * t
    blue = torch.remainder(h_mean, turn).rad2deg() - 275
    rotation = -torch.sin(math.radians(60) * torch.exp(-(blue / 25).square())) * 2 * _saturation(c_mean)
    d_l, d_c, d_h = d_l / s_l, d_c / s_c, d_h / s_h
    return (d_l * d_l + d_c * d_c + d_h * d_h + rotation * d_c * d_h).clamp_min(0).sqrt()


def _saturation(chroma: Tensor) -> Tensor:
    """``sqrt(C^7 / (C^7 + 25^7))`` of CIEDE2000."""
    seventh = chroma**7
    return (seventh / (seventh + 25.0**7)).sqrt()


def colour_cast(images: Tensor) -> Tensor:
    """Colour cast of each image under the grey-world assumption.

    The mean linear colour of the pixels that are neither clipped nor black is brought to L* = 50 and read in
    L*a*b*. Scaling the exposure of a photo leaves its cast unchanged. A picture of one coloured thing is
    not grey on average: the measure says how coloured the whole is, not why.

    Args:
        images: sRGB, ``(B, 3, H, W)`` in [0, 1].

    Returns:
        ``(B, 2)``: a* (green − … red +) and b* (blue − … yellow +). Their length is the strength of the cast.
        Zero where no pixel is left to judge.

    Raises:
        ValueError: Not ``(B, 3, H, W)``.
    """
    images = as_images(images, channels=(3,))
    usable = (images.amax(dim=1) < 254.5 / 255) & (images.amax(dim=1) > 1.5 / 255)
    count = usable.sum(dim=(1, 2)).clamp_min(1).unsqueeze(1)
    mean = (srgb_to_linear(images) * usable.unsqueeze(1)).sum(dim=(2, 3)) / count
    luminance = (mean * mean.new_tensor(_LINEAR_SRGB_TO_XYZ[1])).sum(dim=1)
    middle_grey = ((50 + 16) / 116) ** 3
    scaled = mean * (middle_grey / luminance.clamp_min(1e-12)).unsqueeze(1)
    return torch.where(luminance.unsqueeze(1) > 0, linear_to_lab(scaled)[:, 1:], 0.0)
