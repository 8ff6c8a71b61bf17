"""Draw the registry's icon and banner: one landscape, dark on the left and lit on the right.

python web/assets/draw.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
SCALE = 4
ICON = (400, 400)
BANNER = (1260, 540)


def sky(size: tuple[int, int], horizon: float) -> np.ndarray:
    """Sky from zenith to horizon, ``(height, width, 3)`` in [0, 1]."""
    width, height = size
    zenith, middle, low = ((0.25, 0.47, 0.80), (0.62, 0.78, 0.93), (1.0, 0.83, 0.58))
    at = np.clip(np.linspace(0, 1 / horizon, height), 0, 1)[:, None]
    upper = np.array(zenith) * (1 - at) + np.array(middle) * at
    return np.repeat((upper * (1 - at**3) + np.array(low) * at**3)[:, None], width, axis=1)


def ridge(size: tuple[int, int], base: float, height: float, seed: int, roughness: float) -> list:
    """Outline of a mountain range as polygon points: midpoint displacement."""
    generator = np.random.default_rng(seed)
    heights = np.array([0.3, 0.9, 0.5])
    amplitude = roughness
    while len(heights) < 300:
        middle = (heights[:-1] + heights[1:]) / 2 + generator.normal(0, amplitude, len(heights) - 1)
        heights = np.append(np.stack([heights[:-1], middle], axis=1).ravel(), heights[-1])
        amplitude *= 0.5
    across = np.linspace(0, size[0], len(heights))
    outline = [(x, (base - height * h) * size[1]) for x, h in zip(across, heights, strict=True)]
    return [*outline, (size[0], size[1]), (0, size[1])]


def landscape(size: tuple[int, int], sun: tuple[float, float]) -> np.ndarray:
    """The lit landscape, ``(height, width, 3)`` in [0, 1]."""
    horizon = 0.74
    picture = Image.fromarray((sky(size, horizon) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    x, y, radius = sun[0] * size[0], sun[1] * size[1], 0.085 * size[1]
    for ring in range(6, 0, -1):
        r = radius * (1 + ring * 0.28)
        halo = Image.new("L", size, 0)
        ImageDraw.Draw(halo).ellipse((x - r, y - r, x + r, y + r), fill=16)
        picture.paste((255, 244, 205), mask=halo)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 247, 219))
    draw.polygon(ridge(size, horizon, 0.36, 4, 0.22), fill=(120, 146, 188))
    draw.polygon(ridge(size, horizon + 0.04, 0.24, 9, 0.2), fill=(84, 122, 130))
    draw.polygon(ridge(size, horizon + 0.14, 0.16, 23, 0.16), fill=(58, 110, 72))
    draw.rectangle((0, 0.9 * size[1], size[0], size[1]), fill=(44, 92, 58))
    return np.asarray(picture).astype(np.float64) / 255


def darkened(lit: np.ndarray) -> np.ndarray:
    """The same landscape with four stops less light, bluish and grainy."""
    dark = lit**2.2 / 16
    dark = (dark * np.array([0.7, 0.85, 1.25])) ** (1 / 2.2)
    grain = np.random.default_rng(1).normal(0, 0.02, (*(s // SCALE for s in lit.shape[:2]), 1))
    grain = grain.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    return np.clip(dark + grain, 0, 1)


def split(size: tuple[int, int], sun: tuple[float, float], where: float, slant: float) -> Image.Image:
    """Dark left of a slanted line, lit right of it, at final size."""
    large = (size[0] * SCALE, size[1] * SCALE)
    lit = landscape(large, sun)
    rows, columns = np.mgrid[0 : large[1], 0 : large[0]]
    edge = columns - (where + slant * (0.5 - rows / large[1])) * large[0]
    both = np.where((edge > 0)[..., None], lit, darkened(lit))
    both[np.abs(edge) < 0.006 * large[1]] = 1
    return Image.fromarray((both * 255).round().astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)


def icon() -> Image.Image:
    """Square icon with round corners."""
    picture = split(ICON, (0.7, 0.3), 0.5, 0.24)
    corners = Image.new("L", (ICON[0] * SCALE, ICON[1] * SCALE), 0)
    ImageDraw.Draw(corners).rounded_rectangle(
        (0, 0, corners.width - 1, corners.height - 1), radius=72 * SCALE, fill=255
    )
    picture.putalpha(corners.resize(ICON, Image.Resampling.LANCZOS))
    return picture


def banner() -> Image.Image:
    """Wide banner with the name on the dark side."""
    picture = split(BANNER, (0.78, 0.3), 0.56, 0.12)
    draw = ImageDraw.Draw(picture)
    draw.text((70, 150), "Semi-LLIE", font=ImageFont.load_default(size=104), fill="white")
    draw.text((76, 278), "Low-light enhancement", font=ImageFont.load_default(size=44), fill=(214, 224, 240))
    draw.text((76, 334), "for ComfyUI", font=ImageFont.load_default(size=44), fill=(214, 224, 240))
    return picture


if __name__ == "__main__":
    icon().save(HERE / "icon.png", optimize=True)
    banner().save(HERE / "banner.jpg", quality=88, optimize=True)
