"""Training: typed configuration, the mean teacher's step, the loop, exact resume."""

from .config import (
    ConsistencyConfig,
    LossConfig,
    OptimizerConfig,
    Phase,
    RuntimeConfig,
    TeacherConfig,
    TrainConfig,
)
from .errors import TrainingError
from .fine_tune import FineTuned, FineTuneOptions, fine_tune
from .objective import Objective
from .official import OfficialIteration, OfficialTrainer
from .rehearsal import Rehearsal, rehearse
from .report import write_report
from .step import MeanTeacherStep, run_steps, whole_frames
from .trainer import Result, train

__all__ = [
    "ConsistencyConfig",
    "FineTuneOptions",
    "FineTuned",
    "LossConfig",
    "MeanTeacherStep",
    "Objective",
    "OfficialIteration",
    "OfficialTrainer",
    "OptimizerConfig",
    "Phase",
    "Rehearsal",
    "Result",
    "RuntimeConfig",
    "TeacherConfig",
    "TrainConfig",
    "TrainingError",
    "fine_tune",
    "rehearse",
    "run_steps",
    "train",
    "whole_frames",
    "write_report",
]
