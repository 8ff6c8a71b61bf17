"""The released trainer's iterations on tensors, without data, files or a loop, to compare with a record of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..ram import SemanticEncoder
from .config import TrainConfig
from .distributed import Process
from .presets import preset
from .schedules import consistency_weight, teacher_decay
from .step import MeanTeacherStep, whole_frames


@dataclass(frozen=True)
class OfficialIteration:
    """The numbers of one iteration; losses are not weighted unless it says so."""

    loss: float
    """What the student descends: ``supervised + consistency_weight * unsupervised``."""
    supervised: float
    """``structure + 0.1 * perceptual + 0.1 * gradient``."""
    unsupervised: float
    """``consistency + contrastive``."""
    structure: float
    """``0.8 * L1 + 0.2 * MSE`` between the student's output and the reference."""
    gradient: float
    """L1 between gradient magnitudes, counted twice as there."""
    perceptual: float
    """Mean squared difference of RAM's maps, 0 without an encoder."""
    consistency: float
    """L1 between the student's output on the strong view and the teacher's on the weak one."""
    contrastive: float
    """Ratios of RAM's distances, 0 without an encoder."""
    consistency_weight: float
    """Weight of ``unsupervised`` in this epoch."""
    learning_rate: float
    """That of this epoch."""
    teacher_decay: float
    """What the teacher kept of itself."""


class OfficialTrainer:
    """What the released trainer does with a student, a teacher and batches: ``official_compat`` to the letter.

    It is :class:`MeanTeacherStep` with the preset ``paper`` and no gradient through RAM. Between steps, ``student``
    and ``teacher`` hold their new weights, the student's ``.grad`` the gradient of the last step, and ``optimizer`` its
    state. Which paths are dropped (networks with a ``drop_path_rate``) is drawn in another order than there.

    Args:
        student: Changed in place.
        teacher: Changed in place and frozen; the released trainer initialises it apart from the student.
        epoch: Epoch of the steps, from 1. The schedules go by it, and may be told of another one by setting it.
        iteration: Steps taken so far, which the teacher's decay goes by. The released trainer counts them from 0 again
            whenever it is started.
        encoder: RAM for the losses on its features, made with ``official_compat=True``; ``None`` counts them as 0.

    Raises:
        ValueError: The encoder is not as released.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        epoch: int = 1,
        iteration: int = 0,
        encoder: SemanticEncoder | None = None,
    ) -> None:
        if encoder is not None and not (encoder.is_ram and getattr(encoder, "official_compat", True)):
            raise ValueError("The released losses need RAM: RAMEncoder(network, official_compat=True).")
        self.config = _released(semantic=encoder is not None)
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.epoch, self.iteration = epoch, iteration
        process = Process(0, 1, next(student.parameters()).device)
        self._take = MeanTeacherStep(self.config, student, teacher, encoder, process)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The student's AdamP."""
        return self._take.optimizer

    def step(self, low: Tensor, reference: Tensor, weak: Tensor, strong: Tensor) -> OfficialIteration:
        """Take one iteration.

        Args:
            low: Dark images, ``(B, 3, H, W)`` in [0, 1], on the student's device and of its dtype.
            reference: Theirs, same shape.
            weak: What the teacher sees of unlabelled photos, ``(U, 3, H, W)``.
            strong: What the student sees of them, same shape.

        Raises:
            TrainingError: The loss or its gradient is not finite; nothing has been changed then.
        """
        step = self.epoch - 1  # an epoch is one step long in the config
        record = self._take(whole_frames(low, reference, weak, strong), step, followed=self.iteration)
        decay = teacher_decay(self.config.teacher, self.iteration)
        self.iteration += 1
        weight, losses = consistency_weight(self.config, step), self.config.loss
        parts = ("structure", "gradient", "perceptual", "consistency", "contrastive")
        structure, gradient, perceptual, consistency, contrastive = (record.get(name, 0.0) for name in parts)
        return OfficialIteration(
            loss=record["loss"],
            supervised=structure + gradient + perceptual,
            unsupervised=(consistency + contrastive) / weight,
            structure=structure,
            gradient=gradient / losses.gradient,
            perceptual=perceptual / losses.perceptual if perceptual else 0.0,
            consistency=consistency / weight,
            contrastive=contrastive / weight,
            consistency_weight=weight,
            learning_rate=record["lr"],
            teacher_decay=decay,
        )


def _released(*, semantic: bool) -> TrainConfig:
    values = preset("paper") | {"run_dir": "none", "semantic_gradient": False}
    values["optimizer"] |= {"epoch_steps": 1}
    if not semantic:
        values["loss"] |= {"perceptual": 0.0}
        values["consistency"] |= {"contrastive": 0.0}
    return TrainConfig.from_dict(values)
