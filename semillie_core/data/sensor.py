"""A physical model of a camera that gets too little light."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..colour import linear_to_srgb, srgb_to_linear


def simulate_low_light(
    image: Tensor,
    *,
    exposure_ev: float | Tensor,
    full_well_electrons: float | Tensor = 10_000.0,
    read_noise_electrons: float | Tensor = 3.0,
    white_balance_gains: Sequence[float] | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Photograph a well-lit picture again with less light.

    The picture is taken to linear light, scaled by ``2^exposure_ev``, turned into photo-electrons, given Poisson shot
    noise and Gaussian read noise, clipped at black and at the full well, taken back to sRGB and quantised to 8 bits.

    Args:
        image: sRGB, ``(..., 3, H, W)`` in [0, 1].
        exposure_ev: Exposure relative to the picture in stops; negative darkens. Like the other numbers, a float or a
            tensor that broadcasts against the leading dimensions.
        full_well_electrons: Electrons that white stands for at the simulated sensitivity; fewer means more noise.
        read_noise_electrons: Standard deviation of the read noise.
        white_balance_gains: Colour of the light as factors for red, green and blue, ``(3,)`` or ``(..., 3)``.
        generator: Source of randomness, on the image's device.

    Returns:
        The dark photo, same shape, multiples of 1/255.
    """

    def per_image(value: float | Tensor) -> Tensor:
        tensor = torch.as_tensor(value, dtype=image.dtype, device=image.device)
        return tensor[..., None, None, None]

    full_well = per_image(full_well_electrons)
    light = srgb_to_linear(image) * 2.0 ** per_image(exposure_ev)
    if white_balance_gains is not None:
        light = (
            light
            * torch.as_tensor(white_balance_gains, dtype=image.dtype, device=image.device)[..., None, None]
        )
    electrons = torch.poisson((light * full_well).contiguous(), generator=generator)
    noise = torch.randn(image.shape, dtype=image.dtype, device=image.device, generator=generator)
    recorded = ((electrons + per_image(read_noise_electrons) * noise) / full_well).clamp(0, 1)
    return (linear_to_srgb(recorded) * 255).round() / 255
