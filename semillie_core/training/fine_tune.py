"""Fine-tuning of a loaded network on a user's own photos: the mean teacher's training, short and from good weights.

Dark photos without references guide it through the teacher and the semantic contrastive loss (arXiv 2409.16604, §3).
What results should look like comes from pairs; without any, the network's own results on the dark photos stand in for
references, so that it keeps its look while it learns the photos' light and noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import DataConfig, SourceConfig, UnpairedConfig
from ..data.pairs import to_float
from ..files import atomic_write
from ..inference import NOISE_REDUCTION_ALONE, enhance
from ..network import SemiLLIE
from ..network.thumbnail import make_thumbnail
from ..weights import SemiLLIEModel, load_model, save_model
from .config import (
    ConsistencyConfig,
    LossConfig,
    OptimizerConfig,
    Phase,
    RuntimeConfig,
    TeacherConfig,
    TrainConfig,
)
from .journal import read_log
from .trainer import train

SMALLEST_EDGE = 32
"""Pixels that a photo must have each way."""
_TILE = 1024
_PREVIEW_SIDE = 384
_PREVIEWS = 24
_PREVIEW_SHARE = 0.05
"""Of the time between two previews, what the first of them may have taken; those of the first and last step aside."""
_CHECKPOINT_EVERY = 25
# The bundled weights leave to noise reduction what it does better: they are tuned as they were trained.
_LOSS = LossConfig(detail=1.0, noise_reduced=0.5)


@dataclass(frozen=True)
class FineTuneOptions:
    """How to fine-tune.

    Raises:
        ValueError: A value is outside its range.
    """

    steps: int = 200
    """Optimiser steps."""
    learning_rate: float = 2e-4
    """Peak learning rate; it falls to nearly nothing along a cosine."""
    batch_size: int = 2
    """Crops of pairs per step, and as many of dark photos."""
    crop: int = 128
    """Edge of the crops in pixels."""
    consistency: float = 0.3
    """Weight of what the dark photos say: agreement of the student, on photos in another light and with more noise,
    with the teacher."""
    contrastive: float = 0.05
    """Weight, among that, of the semantic contrastive loss, which pulls results towards the teacher's and away from the
    dark input in the features of the encoder; 0 leaves it out. Ten times as much costs fine structure
    (docs/training.md)."""
    seed: int = 0
    """Seed of the crops and their changes."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "crop": SMALLEST_EDGE, "consistency": 0, "contrastive": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}.")
        if not 0 < self.learning_rate <= 0.1:
            raise ValueError(f"learning_rate must lie in (0, 0.1], got {self.learning_rate}.")


@dataclass(frozen=True)
class FineTuned:
    """What fine-tuning gives."""

    model: SemiLLIEModel
    """The teacher of the last step, in float32 on the CPU."""
    losses: list[float]
    """The loss of every step."""
    run: Path
    """The run folder: log, report, pictures, checkpoint, photos; nothing needs it any more."""


def fine_tune(
    model: SemiLLIEModel,
    dark: Sequence[Tensor],
    folder: str | Path,
    *,
    pairs: Sequence[tuple[Tensor, Tensor]] = (),
    options: FineTuneOptions | None = None,
    encoder: str | Path = "",
    device: torch.device | str = "auto",
    progress: Callable[[int, int, Tensor | None], None] | None = None,
    check: Callable[[], None] | None = None,
) -> FineTuned:
    """Adapt a network to photos of one kind: a camera, a place, a look.

    The run has its own folder, named by a hash of everything that decides its result. Called again with the same
    arguments it goes on where it stopped, or returns at once when it had finished; anything else is another run.

    Args:
        model: Where to start; stays as it is.
        dark: Dark photos, each ``(3, H, W)`` in [0, 1], of any size from :data:`SMALLEST_EDGE` pixels.
        folder: Where run folders go; created where missing.
        pairs: Dark photos and what they should become, of equal size.
        options: How long and how; see there.
        encoder: RAM or RAM++ checkpoint for the contrastive loss; empty takes the bundled EfficientNet-Lite0.
        device: Where to compute.
        progress: Called as ``progress(done, steps, preview)``; the preview ``(3, H, W)`` shows the first dark photo
            before and after, or is ``None``. There is one at the first and the last step, and in between as often as
            takes little of the time. An exception it raises ends the run, which keeps its last step, and passes
            through.
        check: Called often while the network's own results on dark photos are made, also inside a photo; an exception
            it raises ends the run and passes through. What is finished is kept.

    Returns:
        The fine-tuned model; ``model`` and its file are untouched.

    Raises:
        ValueError: A photo cannot be used; the message says which and why.
        TrainingError: The loss is no longer finite.
        KeyboardInterrupt: Ctrl-C or a request to end, after a checkpoint.
    """
    options = options or FineTuneOptions()
    tell = progress or (lambda done, total, preview: None)
    if not dark:
        raise ValueError("There is no dark photo to learn from: at least one is needed.")
    unpaired = [_pixels(photo, f"Dark photo {i + 1}") for i, photo in enumerate(dark)]
    before, after = _check_pairs(pairs)
    # A network may live in inference mode, whose tensors cannot learn.
    with torch.inference_mode(False), torch.random.fork_rng():
        start = SemiLLIE(model.config)
        start.load_state_dict(
            {k: v.detach().float().cpu().clone() for k, v in model.network.state_dict().items()}
        )
        # The config names paths below it, and a run goes on with the same config only.
        run = _run_folder(
            Path(folder).resolve(), model.name, start, [unpaired, before, after], options, str(encoder)
        )
        photos = run / "photos"
        if not pairs:
            before = unpaired
            after = _own_results(
                start, before, photos / "after", device, lambda: tell(0, options.steps, None), check
            )
        for name, images in (("dark", unpaired), ("before", before), ("after", after)):
            _write(images, photos / name)
        save_model(run / "start.safetensors", start, _about(model))
        student = start.requires_grad_(True)
        shown = make_thumbnail(_image(unpaired[0])[None], _PREVIEW_SIDE)
        reason: list[BaseException] = []
        previews = _Previews(options.steps)

        def on_step(record: dict[str, Any]) -> bool:
            step = record["step"]
            try:
                if progress and previews.due(step):
                    with previews.timed():
                        tell(step, options.steps, _before_after(student, shown))
                else:
                    tell(step, options.steps, None)
            except BaseException as error:  # kept until the step is safe, then raised
                reason.append(error)
            return bool(reason)

        result = train(
            _config(run, model, options, str(encoder), str(device)), student=student, on_step=on_step
        )
        if reason:
            raise reason[0]
        if not result.finished:
            # Ctrl-C, which the trainer takes as a wish to stop after a checkpoint.
            raise KeyboardInterrupt
        tuned = load_model(result.last)
    about = {**tuned.provenance, **_about(model), "fine_tuned_from": model.name}
    return FineTuned(
        dataclasses.replace(tuned, name=run.name, provenance=about),
        [record["loss"] for record in read_log(run)],
        run,
    )


def _check_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    before, after = [], []
    for i, (low, high) in enumerate(pairs):
        if low.shape != high.shape:
            sizes = " and ".join(f"{photo.shape[-1]}x{photo.shape[-2]}" for photo in (low, high))
            raise ValueError(
                f"Pair {i + 1}: the dark photo and what it should become differ in size ({sizes}). Both must show "
                "the same pixels."
            )
        before.append(_pixels(low, f"The dark photo of pair {i + 1}"))
        after.append(_pixels(high, f"The reference of pair {i + 1}"))
    return before, after


def _pixels(photo: Tensor, name: str) -> np.ndarray:
    """``(H, W, 3)`` uint8."""
    if photo.ndim != 3 or photo.shape[0] != 3:
        raise ValueError(f"{name} must have shape (3, H, W), got {tuple(photo.shape)}.")
    if min(photo.shape[1:]) < SMALLEST_EDGE:
        raise ValueError(
            f"{name} has {photo.shape[2]}x{photo.shape[1]} pixels: too few, {SMALLEST_EDGE} each way are needed."
        )
    if not torch.isfinite(photo).all():
        raise ValueError(f"{name} has values that are not numbers (NaN or infinite).")
    return (
        (photo.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    )


def _image(pixels: np.ndarray) -> Tensor:
    return to_float(torch.from_numpy(pixels).permute(2, 0, 1))


def _run_folder(
    folder: Path,
    name: str,
    start: SemiLLIE,
    photos: list[list[np.ndarray]],
    options: FineTuneOptions,
    encoder: str,
) -> Path:
    digest = hashlib.sha256(repr((str(folder), options, encoder, start.config, _LOSS)).encode())
    for value in start.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    for group in photos:
        digest.update(str(len(group)).encode())
        for pixels in group:
            digest.update(repr(pixels.shape).encode())
            digest.update(pixels.tobytes())
    run = folder / f"{name}-{digest.hexdigest()[:12]}"
    run.mkdir(parents=True, exist_ok=True)
    return run


def _own_results(
    network: SemiLLIE,
    photos: list[np.ndarray],
    folder: Path,
    device: torch.device | str,
    tell: Callable[[], None],
    check: Callable[[], None] | None,
) -> list[np.ndarray]:
    """What the network makes of photos, noise reduced; taken from the folder where an earlier call left it."""
    results = []
    place = None if str(device) == "auto" else device
    for i, pixels in enumerate(photos):
        tell()
        known = _file(folder, i)
        if known.is_file():
            with Image.open(known) as file:
                results.append(np.array(file))
            continue
        result = enhance(
            network,
            _image(pixels)[None],
            controls=NOISE_REDUCTION_ALONE,
            tile=_TILE,
            device=place,
            check=check,
        )
        results.append(_pixels(result.image[0], f"The result of dark photo {i + 1}"))
        _write_one(results[-1], known)
    network.cpu()
    return results


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.png"


def _write(images: list[np.ndarray], folder: Path) -> None:
    for i, pixels in enumerate(images):
        _write_one(pixels, _file(folder, i))


def _write_one(pixels: np.ndarray, path: Path) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)


def _config(
    run: Path, model: SemiLLIEModel, options: FineTuneOptions, encoder: str, device: str
) -> TrainConfig:
    photos = run / "photos"
    return TrainConfig(
        run_dir=str(run),
        data=DataConfig(
            sources=(SourceConfig(str(photos / "before"), str(photos / "after")),),
            unpaired=(UnpairedConfig(str(photos / "dark")),),
            frame_scale=0.6,
        ),
        network=model.config,
        init=str(run / "start.safetensors"),
        encoder=encoder,
        phases=(
            Phase(
                options.steps,
                options.batch_size,
                options.crop,
                options.batch_size if options.consistency else 0,
            ),
        ),
        loss=_LOSS,
        consistency=ConsistencyConfig(
            # The teacher is good from the first step, so its word counts at once.
            weight=options.consistency,
            ramp_steps=0,
            contrastive=options.contrastive,
        ),
        optimizer=OptimizerConfig(
            learning_rate=options.learning_rate, warmup_steps=min(20, options.steps // 10)
        ),
        # The teacher remembers about a tenth of the run.
        teacher=TeacherConfig(decay=min(0.999, max(0.0, 1 - 10 / options.steps))),
        runtime=RuntimeConfig(device=device),
        checkpoint_every=_CHECKPOINT_EVERY,
        seed=options.seed,
    )


def _about(model: SemiLLIEModel) -> dict[str, str]:
    """The provenance that also holds for what is made of a model."""
    return {key: model.provenance[key] for key in ("licence", "data") if key in model.provenance}


class _Previews:
    """When to show previews: at the first and the last step that is told of, in between at some, if there is time.

    Args:
        steps: Length of the run.
    """

    def __init__(self, steps: int) -> None:
        self._steps, self._every = steps, max(1, steps // _PREVIEWS)
        self._rest_until: float | None = None

    def due(self, step: int) -> bool:
        """Whether to show one after this step, counted from 1."""
        if self._rest_until is None or step == self._steps:
            return True
        return step % self._every == 0 and perf_counter() >= self._rest_until

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around the work for a preview, whose time decides when the next may come."""
        started = perf_counter()
        yield
        self._rest_until = started + (perf_counter() - started) / _PREVIEW_SHARE


@torch.no_grad()
def _before_after(student: SemiLLIE, shown: Tensor) -> Tensor:
    student.eval()
    shown = shown.to(student.conv_first.weight.device)
    return torch.cat([shown, student(shown).image.clamp(0, 1)], dim=3)[0]
