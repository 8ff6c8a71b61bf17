"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import StepData, steps
from ..data.sampling import to_device
from .bank import PseudoLabelBank, make_label
from .checkpoint import check_same_run, random_state, read_state, set_random_state, write_state
from .checks import check_config
from .config import TrainConfig
from .distributed import Process, this_process
from .errors import TrainingError
from .inputs import load_data, load_encoder, shape_of, weight_digests
from .interrupts import interruptible
from .journal import Journal, write_description
from .mean_teacher import make_teacher
from .pictures import write_progress
from .report import write_report
from .step import MeanTeacherStep
from .students import build_student, recompute_blocks, save_network
from .validation import validate


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
        self._state_file = self.folder / "state.pt"
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        torch.manual_seed(config.seed)
        given = student is not None
        student = build_student(config) if student is None else student
        if config.runtime.checkpoint_blocks:
            recompute_blocks(student)
        self.student = student.to(process.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = make_teacher(self.student)
        self.take_step = MeanTeacherStep(
            config, self.student, self.teacher, load_encoder(config, process.device), process
        )
        self.data, self.validation_pairs = load_data(config)
        self.files = self.data.digests(self.validation_pairs) | weight_digests(config, given=given)
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
            write_description(self.folder, config, self.data.report)
            journal = Journal(self.folder, self.step)
        with interruptible() as interrupted, contextlib.ExitStack() as stack:
            if journal is not None:
                stack.callback(journal.close)
            while self.step < config.steps and not interrupted.is_set():
                start, stop = self.step, self._next_refresh()
                for batches in steps(
                    self.data, self._shape, start, stop, rank=process.rank, world=process.world
                ):
                    data = to_device(batches, process.device)
                    record = self._train_step(data)
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
                    # With new best weights at once: a crash would leave those of a step that is run again.
                    due = self.step % config.checkpoint_every == 0 or self.step == self.best_step
                    if due or self.step == stop or last or stopping:
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
        record = validate(
            self.teacher,
            self.validation_pairs,
            self.process,
            noise_reduced=self.config.loss.noise_reduced > 0,
        )
        if record["val_psnr"] > self.best_psnr:
            self.best_psnr, self.best_step = record["val_psnr"], self.step
            if self.process.leads:
                self._save("best.safetensors")
        return record

    def _refresh_bank(self) -> float:
        """Offer new pseudo-labels; returns the share of photos that have one."""
        assert self.bank is not None  # noqa: S101
        changed = self.bank.refresh(
            self._make_label, self.step, rank=self.process.rank, world=self.process.world
        )
        for part in self.process.gather(changed):
            self.bank.accept(part)
        return len(self.bank) / max(len(self.data.unpaired_photos), 1)

    def _make_label(self, path: Path) -> Tensor | None:
        photo = self.data.photos.read(path)
        return None if photo is None else make_label(self.teacher, photo)

    def _pictures(self, data: StepData) -> None:
        if self.process.leads:
            write_progress(self.folder / "pictures", self.step, data, (self.student, self.teacher))

    def _save(self, name: str) -> None:
        provenance = {
            "training_config_sha256": self.config.sha256(),
            "run": self.folder.name,
            "step": str(self.step),
        }
        save_network(self.folder / name, self.teacher, provenance)

    def _checkpoint(self) -> None:
        rng = self.process.gather(random_state(self.process.device))
        if self.process.leads:
            state = {
                **self.take_step.state(),
                "files": self.files,
                "rng": rng,
                "step": self.step,
                "best_psnr": self.best_psnr,
                "best_step": self.best_step,
                "bank": self.bank.state() if self.bank is not None else {},
            }
            self._save("last.safetensors")
            write_state(self._state_file, self.config, state)
            if self.bank is not None:
                self.bank.drop_replaced()
        self.process.wait()

    def _resume(self) -> None:
        if not self._state_file.is_file():
            return
        state = read_state(self._state_file)
        check_same_run(state, self.config, self.files, self.folder)
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
