"""What changes over a run: learning rate, weight of the consistency terms, decay of the teacher."""

from __future__ import annotations

import itertools
import math

from .config import OptimizerConfig, TeacherConfig, TrainConfig

_RELEASED_RAMP_EPOCHS = 100
_RELEASED_DROPS = (101, 151)


def epoch(config: OptimizerConfig, step: int) -> int:
    """Epoch of a step in the released schedules, from 1."""
    return step // config.epoch_steps + 1


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of a step, counted from 0.

    Cosine: linear warm-up, then a cosine from the peak to the final rate.
    Released: ``MultiStepLR([100, 150], 0.1)`` stepped with ``epoch - 1`` at the epoch's end, which comes to a
    tenth from epoch 102 on and another tenth from 152.
    """
    optimizer = config.optimizer
    if optimizer.schedule == "released":
        drops = sum(epoch(optimizer, step) > last for last in _RELEASED_DROPS)
        return optimizer.learning_rate * 0.1**drops
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    progress = (step - optimizer.warmup_steps) / max(config.steps - 1 - optimizer.warmup_steps, 1)
    span = optimizer.learning_rate - optimizer.final_learning_rate
    return optimizer.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def consistency_weight(config: TrainConfig, step: int) -> float:
    """``weight * exp(-5 (1 - t)^2)`` with t the progress of the ramp.

    It begins with the first step that has unpaired photos; the released schedule counts 100 epochs of the run.
    """
    consistency = config.consistency
    if config.optimizer.schedule == "released":
        progress = min(epoch(config.optimizer, step) / _RELEASED_RAMP_EPOCHS, 1.0)
    elif consistency.ramp_steps:
        supervised = itertools.takewhile(lambda phase: not phase.unpaired, config.phases)
        first = sum(phase.steps for phase in supervised)
        progress = min(max(step - first, 0) / consistency.ramp_steps, 1.0)
    else:
        progress = 1.0
    return consistency.weight * math.exp(-5.0 * (1.0 - progress) ** 2)


def teacher_decay(config: TeacherConfig, step: int) -> float:
    """What the teacher keeps of itself after step ``step``, counted from 0.

    Both warm-ups begin with (almost) the student; "released" is ``min(1 - 1 / (step + 1), decay)``.
    """
    ramp = 1 - 1 / (step + 1) if config.warmup == "released" else (2 + step) / (11 + step)
    return min(config.decay, ramp)
