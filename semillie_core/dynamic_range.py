"""From high dynamic range (ITU-R BT.2100) to standard range."""

from __future__ import annotations

import torch
from torch import Tensor

from .colour import REC709

PQ, HLG = 16, 18
HIGH_RANGE = {PQ: "PQ", HLG: "HLG"}
"""Transfer curves of high dynamic range by their numbers in ITU-T H.273."""

_PEAK = 1000.0
"""cd/m2 of the display that a video is taken to be made for: nominal for HLG, the usual one for PQ."""
_WHITE = 203.0
"""cd/m2 of a white sheet (ITU-R BT.2408)."""
_SHOULDER = 0.75
"""Share of white from which on light is compressed, so that highlights up to the peak keep their texture."""
_REC2020 = (0.2627, 0.6780, 0.0593)
_TO_BT709 = (
    (1.660491, -0.587641, -0.072850),
    (-0.124550, 1.132900, -0.008349),
    (-0.018151, -0.100579, 1.118730),
)


def to_standard_range(signal: Tensor, transfer: int) -> Tensor:
    """What a picture of high dynamic range looks like on a display of standard range.

    Up to three quarters of white light stays as it is; what is brighter is compressed, by the same factor in all three
    channels, so that it keeps its hue. Colours that the smaller gamut lacks lose just the saturation that is too much.

    Args:
        signal: ``(3, H, W)`` in [0, 1], R'G'B' of BT.2100 with the primaries of BT.2020.
        transfer: :data:`PQ` or :data:`HLG`.

    Returns:
        Same shape, linear light in [0, 1], 1 for white, with the primaries of BT.709, which are those of sRGB.
    """
    light = _from_pq(signal) if transfer == PQ else _from_hlg(signal)
    light = torch.einsum("oc,chw->ohw", light.new_tensor(_TO_BT709), light / _WHITE)
    brightness = _weighted(light, REC709).clamp(min=0)
    lowest = light.amin(0, keepdim=True)
    share = torch.where(lowest < 0, brightness / (brightness - lowest), 1.0)
    light = (brightness + share * (light - brightness)).clamp(min=0)
    brightest = light.amax(0, keepdim=True)
    return (light * (_compress(brightest) / brightest.clamp(min=1e-9))).clamp(max=1)


def _from_pq(signal: Tensor) -> Tensor:
    """Display light in cd/m2 (BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return 10000 * ((root - c1).clamp(min=0) / (c2 - c3 * root)) ** (1 / m1)


def _from_hlg(signal: Tensor) -> Tensor:
    """Display light in cd/m2 (BT.2100, table 5, with the system gamma of the nominal peak)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = torch.where(signal <= 0.5, signal**2 / 3, (torch.exp((signal - c) / a) + b) / 12)
    return _PEAK * _weighted(scene, _REC2020) ** 0.2 * scene


def _compress(light: Tensor) -> Tensor:
    """Nothing below the shoulder; above it, smoothly, the peak becomes 1 (Reinhard et al. 2002, eq. 4)."""
    room = 1 - _SHOULDER
    above = (light.clamp(max=_PEAK / _WHITE) - _SHOULDER) / room
    most = (_PEAK / _WHITE - _SHOULDER) / room
    return torch.where(above <= 0, light, _SHOULDER + room * above * (1 + above / most**2) / (1 + above))


def _weighted(light: Tensor, weights: tuple[float, float, float]) -> Tensor:
    return torch.einsum("oc,chw->ohw", light.new_tensor([weights]), light)
