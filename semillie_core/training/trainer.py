"""The training loop."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Pair, StepData, StepShape, TrainingData, steps
from ..data.manifest import read_manifest
from ..data.pairs import named, read_levels, to_float
from ..data.photos import short_digest
from ..data.sampling import to_device
from ..files import atomic_write
from ..metrics import psnr, psnr_gt_mean, ssim
from ..metrics.fidelity import SSIM_WINDOW
from ..network import SemiLLIE
from ..ram import SemanticEncoder, load_efficientnet_lite0, load_ram
from ..weights import save_model
from .bank import PseudoLabelBank
from .checkpoint import random_state, read_state, set_random_state
from .config import TrainConfig
from .distributed import Process, this_process
from .errors import TrainingError
from .journal import Journal
from .mean_teacher import make_teacher
from .pictures import write_grid
from .report import write_report
from .step import MeanTeacherStep
from .students import LARGEST_WHOLE, View, build_student, enhance_photo, enhance_view


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    best: Path
    """Teacher with the highest plain validation PSNR, safetensors; the last one where nothing was validated."""
    last: Path
    """Teacher of the last step, safetensors."""
    best_psnr: float
    """Mean validation PSNR of ``best`` in dB."""
    best_step: int
    """Step of ``best``."""
    report: Path
    """Markdown report with curves, tables and pictures."""
    finished: bool
    """Whether all steps were run; False after an interrupt, which leaves a checkpoint."""


def train(
    config: TrainConfig,
    *,
    student: nn.Module | None = None,
    on_step: Callable[[dict[str, Any]], bool | None] | None = None,
) -> Result:
    """Train a student, and the teacher that averages it, on pairs and unpaired dark photos.

    The run can be stopped at any moment; started again with the same config it continues from its last checkpoint,
    on the CPU bit for bit as if it had never stopped. Ctrl-C finishes the step, writes a checkpoint and returns.
    Started by ``torchrun``, every process calls this and shares the global batches.

    Args:
        config: The run.
        student: What to train, in place, instead of what the config names: any module from images ``(B, 3, H, W)`` in
            [0, 1] to images of the same size. Several processes must be given the same weights.
        on_step: Called with every log record (step, loss terms, learning rate, seconds; validation scores when
            there are some), in the process that writes the files. Returning True ends the run as Ctrl-C does.

    Returns:
        Where the weights are and how good they are.

    Raises:
        TrainingError: The run folder belongs to another config or lies inside the data, its checkpoint is damaged, an
            option cannot be met, or the loss is no longer finite.
        DataError: A folder or file of the data cannot be used.
    """
    with this_process(config.runtime.device) as process:
        return _Run(config, process, student).train(on_step)


class _Run:
    def __init__(self, config: TrainConfig, process: Process, student: nn.Module | None) -> None:
        check_config(config, process)
        self.config, self.process = config, process
        self.folder = Path(config.run_dir)
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        torch.manual_seed(config.seed)
        given = student is not None
        student = build_student(config) if student is None else student
        if config.runtime.checkpoint_blocks:
            _checkpoint_blocks(student)
        self.student = student.to(process.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = make_teacher(self.student)
        self.take_step = MeanTeacherStep(
            config, self.student, self.teacher, _encoder(config, process), process
        )
        self.data, self.validation_pairs = load_data(config)
        self.files = self.data.digests(self.validation_pairs) | _weight_digests(config, given=given)
        self.bank: PseudoLabelBank | None = None
        if config.consistency.bank_every:
            self.bank = PseudoLabelBank(self.folder / "bank", self.data.unpaired_photos)
            self.data.pseudo_labels = self.bank.lookup
        # Not a method: what a worker process is sent must not hold the networks.
        self._shape = partial(shape_of, config)
        self.step, self.best_psnr, self.best_step = 0, -math.inf, -1
        # Processes drop different paths.
        torch.manual_seed(config.seed * 1_000_003 + process.rank)
        self._resume()

    def train(self, on_step: Callable[[dict[str, Any]], bool | None] | None) -> Result:
        config, process = self.config, self.process
        journal = None
        if process.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_description(self.folder, config, self.data.report)
            journal = Journal(self.folder, self.step)
        with _interruptible() as interrupted, contextlib.ExitStack() as stack:
            if journal is not None:
                stack.callback(journal.close)
            while self.step < config.steps and not interrupted.is_set():
                start, stop = self.step, self._next_refresh()
                for data in steps(
                    self.data, self._shape, start, stop, rank=process.rank, world=process.world
                ):
                    record = self._train_step(to_device(data, process.device))
                    last = self.step == config.steps
                    if self.validation_pairs and (self.step % config.val_every == 0 or last):
                        record |= self._validate()
                    if self.bank is not None and self.step == stop:
                        record["bank"] = self._refresh_bank()
                    if config.pictures_every and (self.step % config.pictures_every == 0 or last):
                        self._pictures(data)
                    if journal is not None:
                        journal.write(record)
                        if on_step is not None and on_step(record):
                            interrupted.set()
                    stopping = any(process.gather(interrupted.is_set()))
                    if stopping:
                        interrupted.set()
                    if self.step % config.checkpoint_every == 0 or self.step == stop or last or stopping:
                        self._checkpoint()
                    if stopping:
                        break
        if process.leads:
            write_report(self.folder)
        process.wait()
        best = self.folder / ("best.safetensors" if self.best_step >= 0 else "last.safetensors")
        return Result(
            best,
            self.folder / "last.safetensors",
            self.best_psnr,
            self.best_step,
            self.folder / "report.md",
            self.step == config.steps,
        )

    def _next_refresh(self) -> int:
        every = self.config.consistency.bank_every
        return min(self.config.steps, (self.step // every + 1) * every) if every else self.config.steps

    def _train_step(self, data: StepData) -> dict[str, Any]:
        started = time.perf_counter()
        losses = self.take_step(data, self.step)
        self.step += 1
        return {"step": self.step, **losses, "seconds": round(time.perf_counter() - started, 3)}

    def _validate(self) -> dict[str, float]:
        self.teacher.eval()
        mine = self.validation_pairs[self.process.rank :: self.process.world]
        scores = [row for part in self.process.gather(score_pairs(self.teacher, mine)) for row in part]
        means = [sum(column) / len(scores) for column in zip(*scores, strict=True)]
        record = dict(zip(("val_psnr", "val_ssim", "val_psnr_gt_mean"), means, strict=True))
        if record["val_psnr"] > self.best_psnr:
            self.best_psnr, self.best_step = record["val_psnr"], self.step
            if self.process.leads:
                self._save("best.safetensors")
        return record

    def _refresh_bank(self) -> float:
        """Offer new pseudo-labels; returns the share of photos that have one."""
        assert self.bank is not None  # noqa: S101
        self.teacher.eval()
        changed = self.bank.refresh(
            self._pseudo_label, self.step, rank=self.process.rank, world=self.process.world
        )
        for part in self.process.gather(changed):
            self.bank.accept(part)
        return len(self.bank) / max(len(self.data.unpaired_photos), 1)

    @torch.no_grad()
    def _pseudo_label(self, path: Path) -> Tensor | None:
        photo = self.data.photos.read(path)
        if photo is None:
            return None
        image, size = to_float(photo)[None], photo.shape[1:]
        while image.shape[2] * image.shape[3] > LARGEST_WHOLE:
            image = F.interpolate(image, scale_factor=0.5, mode="area")
        label = enhance_photo(self.teacher, image.to(self.process.device)).clamp(0, 1)
        return (
            F.interpolate(label, size, mode="bilinear")[0].cpu()
            if label.shape[2:] != size
            else label[0].cpu()
        )

    @torch.no_grad()
    def _pictures(self, data: StepData) -> None:
        if not self.process.leads:
            return
        self.teacher.eval()
        batch = data.paired
        view = View(batch.low, batch.thumbnail, batch.region)
        self.student.eval()
        rows = [enhance_view(network, view).image for network in (self.student, self.teacher)]
        write_grid(self.folder / "pictures" / f"{self.step:07d}.png", [batch.low, *rows, batch.high])
        if data.unpaired is not None:
            weak = View(data.unpaired.weak, data.unpaired.weak_thumbnail, data.unpaired.region)
            rows = [enhance_view(network, weak).image for network in (self.student, self.teacher)]
            write_grid(self.folder / "pictures" / f"{self.step:07d}-unpaired.png", [weak.image, *rows])

    def _save(self, name: str) -> None:
        provenance = {
            "training_config_sha256": self.config.sha256(),
            "run": self.folder.name,
            "step": str(self.step),
        }
        if isinstance(self.teacher, SemiLLIE):
            save_model(self.folder / name, self.teacher, provenance)
            return
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.teacher.state_dict().items()}
        with atomic_write(self.folder / name) as file:
            file.write(safetensors.torch.save(tensors, provenance))

    def _checkpoint(self) -> None:
        rng = self.process.gather(random_state(self.process.device))
        if self.process.leads:
            state = {
                "config_sha256": self.config.sha256(),
                "config": json.dumps(self.config.to_dict()),
                **self.take_step.state(),
                "files": self.files,
                "rng": rng,
                "step": self.step,
                "best_psnr": self.best_psnr,
                "best_step": self.best_step,
                "bank": self.bank.state() if self.bank is not None else {},
            }
            self._save("last.safetensors")
            with atomic_write(self.folder / "state.pt") as file:
                torch.save(state, file)
            if self.bank is not None:
                self.bank.drop_replaced()
        self.process.wait()

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.is_file():
            return
        state = read_state(path)
        try:
            changed = self.config.differences(json.loads(state["config"]))
        except (KeyError, TypeError, ValueError) as error:
            changed = [f"it is of another version: {error}"]
        if changed:
            raise TrainingError(
                f"{self.folder} holds a run with another config ({'; '.join(changed)}). Choose another run_dir or "
                "remove it."
            )
        # Earlier versions did not note the files.
        if changed := _changed_files(state.get("files", self.files), self.files):
            raise TrainingError(
                f"{self.folder} holds a run on other files: {'; '.join(changed)}. Put them back, choose another "
                "run_dir or remove it."
            )
        try:
            self.take_step.restore(state)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{self.folder} holds a run of another student. Choose another run_dir or remove it. ({error})"
            ) from error
        if len(state["rng"]) == self.process.world:
            set_random_state(state["rng"][self.process.rank], self.process.device)
        if self.bank is not None:
            self.bank.restore(state["bank"])
        self.step, self.best_psnr, self.best_step = state["step"], state["best_psnr"], state["best_step"]


def _weight_digests(config: TrainConfig, *, given: bool) -> dict[str, str]:
    """A digest of every file of weights that the config names and the run uses."""
    used = (config.encoder,) if given else (config.encoder, config.init, config.spandrel)
    return {name: short_digest(Path(name)) for name in used if name and Path(name).is_file()}


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between the files of two runs, in words."""
    kinds = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "changed": [name for name in before if now.get(name, before[name]) != before[name]],
    }
    return [f"{len(names)} {kind} ({named(names, 5)})" for kind, names in kinds.items() if names]


def load_data(config: TrainConfig) -> tuple[TrainingData, list[Pair]]:
    """A run's photos, whose report says how many they are, and its validation pairs if it validates.

    Raises:
        TrainingError: A phase asks for unpaired photos, and there are none.
        DataError: A folder or file of the data cannot be used.
    """
    data = TrainingData(config.data, config.seed, config.network.thumbnail)
    if any(phase.unpaired for phase in config.phases) and not data.unpaired_photos:
        raise TrainingError(
            "A phase asks for unpaired photos, and there are none: name folders in data.unpaired, or a manifest "
            "that has some; with data.unpaired_from_pairs, data.pair_fraction must leave pairs out."
        )
    validation = data.validation() if config.val_every else []
    data.report.append(f"{len(validation)} validation pairs")
    return data, validation


def shape_of(config: TrainConfig, step: int) -> StepShape:
    """Sizes of the global batches of a step."""
    phase = config.phase(step)
    return StepShape(phase.batch_size, phase.unpaired, phase.crop)


@torch.no_grad()
def score_pairs(network: nn.Module, pairs: list[Pair]) -> list[tuple[float, float, float]]:
    """Plain PSNR (dB), SSIM and GT-mean PSNR of whole photos, clamped to [0, 1], on the network's device."""
    device = next(network.parameters()).device
    scores = []
    for pair in pairs:
        low, high = (to_float(read_levels(path))[None].to(device) for path in (pair.low, pair.high))
        output = enhance_photo(network, low).float().clamp(0, 1)
        scores.append(tuple(float(f(output, high)) for f in (psnr, ssim, psnr_gt_mean)))
    return scores  # type: ignore[return-value]


def check_config(config: TrainConfig, process: Process) -> None:
    """Refuse what cannot be met, before anything is loaded.

    Raises:
        TrainingError: The run folder lies inside the data, or an option does not fit the others or the processes.
    """
    run = Path(config.run_dir).resolve()
    for folder in _data_folders(config):
        if run.is_relative_to(Path(folder).resolve()):
            raise TrainingError(
                f"run_dir {config.run_dir} lies inside the data folder {folder}, which stays as it is. Choose another."
            )
    shares = process.world * config.optimizer.accumulate
    for phase in config.phases:
        if config.loss.ssim and 0 < phase.crop < SSIM_WINDOW:
            raise TrainingError(
                f"A phase's crop of {phase.crop} pixels is smaller than the window of the SSIM loss: make it at least "
                f"{SSIM_WINDOW}, or set loss.ssim to 0."
            )
        for name, count in (("batch_size", phase.batch_size), ("unpaired", phase.unpaired)):
            if count % shares:
                raise TrainingError(
                    f"A phase's {name} of {count} cannot be shared evenly by {process.world} processes in "
                    f"{config.optimizer.accumulate} parts each: make it a multiple of {shares}."
                )
    if config.official_compat and config.needs_encoder and not config.encoder:
        raise TrainingError(
            "official_compat compares RAM's features, and no file of RAM is named: name it in encoder, or set "
            "loss.perceptual and consistency.contrastive to 0."
        )


def _data_folders(config: TrainConfig) -> Iterator[str]:
    for source in config.data.sources:
        yield from (source.low, source.high)
    yield from (unpaired.folder for unpaired in config.data.unpaired)
    yield from (folder for folder in (config.data.val_low, config.data.val_high) if folder)
    if config.data.manifest:
        # The manifest itself may lie anywhere, above the run folder, too.
        yield from {str(entry.path.parent) for entry in read_manifest(config.data.manifest)}


def _encoder(config: TrainConfig, process: Process) -> SemanticEncoder | None:
    """The encoder of the semantic losses, if a phase uses one."""
    if not config.needs_encoder:
        return None
    if not config.encoder:
        return load_efficientnet_lite0(device=process.device).encoder
    encoder = load_ram(config.encoder, device=process.device).encoder
    if config.official_compat and hasattr(encoder, "official_compat"):
        encoder.official_compat = True
    return encoder


def _checkpoint_blocks(student: nn.Module) -> None:
    if not isinstance(student, SemiLLIE):
        raise TrainingError("runtime.checkpoint_blocks works with Semi-LLIE networks only.")
    student.checkpoint_blocks = True


def _write_description(folder: Path, config: TrainConfig, found: list[str]) -> None:
    with atomic_write(folder / "config.json") as file:
        file.write(json.dumps(config.to_dict(), indent=1).encode() + b"\n")
    with atomic_write(folder / "data.txt") as file:
        file.write("".join(f"{line}\n" for line in found).encode())


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and termination set, instead of breaking the step; a second Ctrl-C breaks it.

    Further terminations do not: launchers send several, to each process and again to its group.
    """
    event = threading.Event()
    impatient = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if impatient.is_set():
                raise KeyboardInterrupt
            impatient.set()
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
