"""One optimiser step of the mean teacher, without data, files or a loop around it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Batch, StepData, UnpairedBatch
from ..ram import SemanticEncoder
from .config import TrainConfig
from .distributed import Process
from .errors import TrainingError
from .mean_teacher import update_teacher
from .objective import Objective
from .optimizers import build_optimizer
from .schedules import epoch, learning_rate, teacher_decay
from .students import uses_all_weights

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
_REMEDY = (
    "Train on in a new run_dir with a lower optimizer.learning_rate and with init set to this run's best.safetensors "
    "(last.safetensors, where the run does not validate)."
)


class MeanTeacherStep:
    """The student learns by gradient, the teacher by averaging the student.

    Args:
        config: Losses, optimiser, schedules and precision.
        student: What learns, on the process's device.
        teacher: What follows, of the same architecture; see :func:`semillie_core.training.mean_teacher.make_teacher`.
        encoder: Frozen encoder of the semantic losses; ``None`` where no phase uses them.
        process: This process among those of the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        student: nn.Module,
        teacher: nn.Module,
        encoder: SemanticEncoder | None,
        process: Process,
    ) -> None:
        self.config, self.process = config, process
        self.student, self.teacher = student, teacher
        self.optimizer = build_optimizer(student, config.optimizer)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=config.runtime.amp == "fp16")
        if config.runtime.compile:
            # In place: a wrapper would be another class, with other names of weights.
            student.compile()
        self.objective = process.wrap(
            Objective(student, teacher, encoder, config), all_used=uses_all_weights(student)
        )

    def __call__(self, data: StepData, step: int, *, followed: int | None = None) -> dict[str, float]:
        """Take the step.

        Args:
            data: This process's share of the step's batches.
            step: Its number in the run, from 0.
            followed: Steps that the teacher has followed so far; ``step`` by default.

        Returns:
            Learning rate ``lr``, ``loss``, and every weighted term, averaged over processes.

        Raises:
            TrainingError: The loss or its gradient is not finite; nothing has been changed then.
        """
        config = self.config
        rate = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        # As released: the teacher drops paths, too, until the first epoch is over.
        self.teacher.train(config.official_compat and epoch(config.optimizer, step) == 1)
        self.optimizer.zero_grad(set_to_none=True)
        terms = self._accumulate_gradient(data, step)
        self._clip_gradient(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        decay = teacher_decay(config.teacher, step if followed is None else followed)
        update_teacher(self.teacher, self.student, decay)
        return {"lr": rate, "loss": sum(terms.values()), **terms}

    def state(self) -> dict[str, Any]:
        """Everything that a later step depends on, for a checkpoint."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint's :meth:`state`."""
        for name, part in self._parts().items():
            # A run may go on in another precision; the state of a scaler that was off is empty.
            if name != "scaler" or state[name]:
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("student", "teacher", "optimizer", "scaler")}

    def _accumulate_gradient(self, data: StepData, step: int) -> dict[str, float]:
        parts = _split(data, self.config.optimizer.accumulate)
        terms: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            hold = (
                self.objective.no_sync()  # type: ignore[operator]
                if self.process.world > 1 and index < len(parts) - 1
                else contextlib.nullcontext()
            )
            with hold:
                with self._precision():
                    losses: dict[str, Tensor] = self.objective(part, step)
                total = torch.stack(list(losses.values())).sum() / len(parts)
                self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            for name, loss in losses.items():
                terms[name] = terms.get(name, 0.0) + loss.detach() / len(parts)
        means = self.process.mean(terms)
        broken = sorted(name for name, value in means.items() if not math.isfinite(value))
        if broken:
            raise TrainingError(f"At step {step} the loss is not finite ({', '.join(broken)}). {_REMEDY}")
        return means

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        amp = self.config.runtime.amp
        # Even a disabled autocast is refused by devices that have none.
        return (
            contextlib.nullcontext() if amp == "off" else torch.autocast(self.process.device.type, _AMP[amp])
        )

    def _clip_gradient(self, step: int) -> None:
        self.scaler.unscale_(self.optimizer)
        limit = self.config.optimizer.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), limit)
        # A loss scaler meets overflow by design, and leaves out the step itself.
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            broken = next(
                name
                for name, parameter in self.student.named_parameters()
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
            )
            raise TrainingError(f"At step {step} the gradient of {broken} is not finite. {_REMEDY}")


def run_steps(
    config: TrainConfig,
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[StepData],
    *,
    first_step: int = 0,
    followed: int | None = None,
    encoder: SemanticEncoder | None = None,
) -> list[dict[str, float]]:
    """Train on given batches, from given weights, with a fresh optimiser: the trainer's arithmetic and nothing else.

    Args:
        config: Losses, optimiser, schedules and precision; its data and run folder are not looked at.
        student: Changed in place.
        teacher: Changed in place.
        batches: One :class:`StepData` per step, on the student's device; see :func:`whole_frames`.
        first_step: Number of the first step, which the schedules go by; it must lie within ``config.phases``.
        followed: Steps that the teacher has followed before; ``first_step`` by default. The released trainer counts
            them from 0 again whenever it is started.
        encoder: Encoder of the semantic losses, if their weights are not 0.

    Returns:
        What :class:`MeanTeacherStep` returns, by step.

    Raises:
        TrainingError: The loss or its gradient is not finite.
    """
    device = next(student.parameters()).device
    teacher.requires_grad_(False).eval()
    take = MeanTeacherStep(config, student, teacher, encoder, Process(0, 1, device))
    followed = first_step if followed is None else followed
    return [take(data, first_step + i, followed=followed + i) for i, data in enumerate(batches)]


def whole_frames(
    low: Tensor, high: Tensor, weak: Tensor | None = None, strong: Tensor | None = None
) -> StepData:
    """A step's data from plain images, each its own frame and without a banked pseudo-label.

    Args:
        low: Dark images, ``(B, 3, H, W)`` in [0, 1].
        high: Their references, same shape.
        weak: What the teacher sees of unpaired photos, ``(U, 3, H, W)``; ``None`` for a step on pairs alone.
        strong: What the student sees of them, same shape.
    """
    unpaired = None
    if weak is not None and strong is not None:
        none = torch.zeros(len(weak), dtype=torch.bool, device=weak.device)
        unpaired = UnpairedBatch(weak, strong, weak, strong, _everywhere(weak), torch.zeros_like(weak), none)
    return StepData(Batch(low, high, low, _everywhere(low)), unpaired)


def _everywhere(images: Tensor) -> Tensor:
    return images.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(images), 4)


def _split(data: StepData, count: int) -> list[StepData]:
    """A step's batches in equal parts."""
    if count == 1:
        return [data]

    def parts(batch: Any) -> list[Any]:
        columns = {f.name: getattr(batch, f.name).chunk(count) for f in dataclasses.fields(batch)}
        return [type(batch)(**{name: c[i] for name, c in columns.items()}) for i in range(count)]

    unpaired = parts(data.unpaired) if data.unpaired is not None else [None] * count
    return [StepData(p, u) for p, u in zip(parts(data.paired), unpaired, strict=True)]
