"""The enhancement of a batch of images: chunks, clips, tiles, alpha, controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..colour import luma
from ..network import SemiLLIE
from ..out_of_memory import in_batches, is_out_of_memory
from ..weights import SemiLLIEModel
from .clip_light import FrameLight, SteadyLight, measure_light, steady_light
from .clip_noise import average_frames
from .controls import EnhanceControls, darkness, into_gamut, keep
from .network_pass import MINIMUM_TILE, NetworkPass, ready
from .noise import reduce_noise
from .tiling import plan_tiles

Progress = Callable[[int, int, Tensor | None], None]
"""Called as ``progress(done, total, preview)``, in tiles of all images: after each tile, and with nothing done while
the light of a clip is measured. ``preview`` is a finished image ``(C, H, W)`` or ``None``. When memory runs out and
tiles become smaller, their number grows, but the share that is done never falls. An exception it raises stops the work
and passes through."""


class Enhancement(NamedTuple):
    """An enhanced batch."""

    image: Tensor
    """``(B, C, H, W)`` float32 in [0, 1], in channels-last memory on the input's device; alpha as given."""
    illumination: Tensor
    """How much light the input had compared with the result, ``(B, H, W)`` in [0, 1]: 0 in darkness, 1 where nothing
    needed brightening, such as in photos that ``keep_well_lit`` keeps (Retinex: input = illumination x reflectance)."""


def enhance(
    model: SemiLLIEModel | SemiLLIE,
    image: Tensor,
    *,
    controls: EnhanceControls | None = None,
    mask: Tensor | None = None,
    tile: int | None = None,
    batch_size: int = 1,
    steady_frames: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    check: Callable[[], None] | None = None,
    out_of_memory: Callable[[BaseException], bool] = is_out_of_memory,
) -> Enhancement:
    """Enhance a batch of images of any size.

    The input is never written to. When memory runs out, the work goes on with half as many images at once; of a single
    image with tiles of half the size, down to :data:`MINIMUM_TILE`.

    Args:
        model: A loaded model, or a bare network.
        image: ``(B, C, H, W)`` in [0, 1]; C is 1 (grey), 3 (RGB) or 4 (RGB and alpha, which is kept). Values outside
            are clamped.
        controls: Adjustments; the defaults are the plain enhancement.
        mask: Where to enhance, ``(B, H, W)`` or ``(1, H, W)`` in [0, 1]; everywhere by default. Values outside are
            clamped.
        tile: Edge of square tiles in pixels, at least :data:`MINIMUM_TILE`; ``None`` takes whole images.
        batch_size: Images per forward pass.
        steady_frames: For consecutive frames of a clip: their exposure is averaged over about so many frames of
            the same shot, so that it does not pump, and their noise over five, if it is reduced. 1 enhances every
            image by itself.
        device: Where to compute; the network must be or may be moved there. Default: where it is.
        dtype: Parameter dtype to compute in. Default: the network's.
        progress: Called after each tile.
        check: Called often, also inside a frame; an exception it raises stops the work and passes through.
        out_of_memory: Tells failed allocations from other errors.

    Returns:
        The enhanced images and the illumination of the inputs.

    Raises:
        ValueError: The image, mask or an option has the wrong shape, kind or range, or the network has no exposure of
            whole frames to keep steady.
    """
    controls = controls or EnhanceControls()
    network = model.network if isinstance(model, SemiLLIEModel) else model
    _check(image, mask, tile, batch_size, steady_frames)
    network.to(device=device, dtype=dtype)
    run = NetworkPass(network, tile, out_of_memory)

    batch, _, height, width = image.shape
    # Channels last, as photo files and ComfyUI have them: who moves them there need not copy a clip.
    result = torch.empty(
        image.shape, dtype=torch.float32, device=image.device, memory_format=torch.channels_last
    )
    illumination = torch.empty((batch, height, width), dtype=torch.float32, device=image.device)
    steady: SteadyLight | None = None
    reached = Fraction(0)

    def report(images: Fraction, preview: Tensor | None = None) -> None:
        """Say how many images are finished, in part perhaps."""
        nonlocal reached
        tiles = len(plan_tiles(height, width, run.edge))
        # What is begun anew in smaller parts is not taken back.
        done = math.ceil(max(images, reached) * tiles)
        reached = Fraction(done, tiles)
        if progress is not None:
            progress(done, batch * tiles, preview)

    def measure(now: slice) -> FrameLight:
        report(Fraction(0))
        return measure_light(network, colours(image[now]))

    def work(now: slice) -> Tensor:
        correct = None if steady is None else partial(steady.correct, frames=now)

        def tile_done(done: int, tiles: int) -> None:
            report(now.start + Fraction((now.stop - now.start) * done, tiles))

        return run(colours(image[now]), correct, tile_done)

    def brightened() -> Iterator[Tensor]:
        for _, images in in_batches(batch, batch_size, work, out_of_memory):
            yield from (images[i : i + 1] for i in range(len(images)))

    def averaged(shots: Sequence[int]) -> Iterator[Tensor]:
        for _, shot in groupby(enumerate(brightened()), lambda frame: shots[frame[0]]):
            pairs = ((colours(image[index : index + 1]), bright) for index, bright in shot)
            yield from average_frames(pairs, controls.noise_reduction, run.device)

    with ready(network, check):
        images = brightened()
        if steady_frames > 1 and batch > 1:
            lights = [light for _, light in in_batches(batch, batch_size, measure, out_of_memory)]
            steady = steady_light(lights, steady_frames)
            if controls.noise_reduction:
                images = averaged(steady.shots.tolist())
        # One by one, so that what the work on several at once leaves of the memory suffices.
        for index, bright in enumerate(images):
            now = slice(index, index + 1)
            masked = mask if mask is None or mask.shape[0] == 1 else mask[now]
            need = None if steady is None else steady.darkness[now]
            result[now], illumination[now] = finish(image[now], bright, controls, run.device, masked, need)
            report(Fraction(now.stop), result[index])
    return Enhancement(result, illumination)


def finish(
    image: Tensor,
    bright: Tensor,
    controls: EnhanceControls,
    device: torch.device,
    mask: Tensor | None = None,
    need: Tensor | None = None,
) -> Enhancement:
    """Make of what the network returned what the user sees.

    Args:
        image: The original, ``(1, C, H, W)``, C as in :func:`enhance`.
        bright: What the network made of it, ``(1, 3, H, W)``.
        controls: Adjustments.
        device: Where noise is reduced.
        mask: Where to enhance, ``(1, H, W)``.
        need: Takes the place of the image's :func:`~.controls.darkness`, ``(1,)``.
    """
    colour = colours(image)
    quiet = reduce_noise(colour.to(device), bright.to(device), controls.noise_reduction)
    enhanced = into_gamut(quiet.to(colour.device), controls.protect_highlights)
    if not controls.keep_well_lit:
        need = None
    elif need is None:
        need = darkness(colour)
    else:
        need = need.to(colour)
    final = controls.apply(colour, enhanced, None if mask is None else mask.to(colour).clamp(0, 1), need)
    # A black-and-white photo stays one, also where it comes as three channels.
    if (colour == colour[:, :1]).all():
        final = luma(final)
    light, lit = luma(colour), luma(enhanced)
    if need is not None:
        lit = keep(light, lit, need)
    shown = [final.expand(-1, 3, -1, -1) if image.shape[1] >= 3 else final[:, :1]]
    if image.shape[1] == 4:
        shown.append(image[:, 3:].float().clamp(0, 1))
    return Enhancement(torch.cat(shown, dim=1), ((light + 1e-3) / (lit + 1e-3)).clamp(0, 1).squeeze(1))


def colours(image: Tensor) -> Tensor:
    """The colour of ``(B, 1, 3 or 4, H, W)`` as float32 ``(B, 3, H, W)`` in [0, 1]."""
    return image[:, :3].float().clamp(0, 1).expand(-1, 3, -1, -1)


def _check(image: Tensor, mask: Tensor | None, tile: int | None, batch_size: int, steady_frames: int) -> None:
    if image.dim() != 4 or image.shape[1] not in (1, 3, 4):
        raise ValueError(f"image must be (B, C, H, W) with C 1, 3 or 4, got {tuple(image.shape)}.")
    if image.numel() == 0:
        raise ValueError(f"image is empty: {tuple(image.shape)}.")
    if not image.is_floating_point():
        raise ValueError(
            f"image must hold floating-point values in [0, 1], got {image.dtype}; divide by its maximum."
        )
    # One by one: what is finite in a whole clip would be a clip of its own.
    if not all(torch.isfinite(single).all() for single in image):
        raise ValueError("image holds NaN or infinite values; remove them first.")
    if mask is not None:
        expected = [(count, *image.shape[2:]) for count in sorted({1, image.shape[0]})]
        if tuple(mask.shape) not in expected:
            raise ValueError(f"mask must be {' or '.join(map(str, expected))}, got {tuple(mask.shape)}.")
        if not torch.isfinite(mask).all():
            raise ValueError("mask holds NaN or infinite values; remove them first.")
    if tile is not None and tile < MINIMUM_TILE:
        raise ValueError(f"tile must be at least {MINIMUM_TILE} pixels, got {tile}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if steady_frames < 1:
        raise ValueError(f"steady_frames must be at least 1, got {steady_frames}.")
