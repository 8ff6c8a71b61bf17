"""Training: typed configuration, the loop, exact resume."""

from .config import LossConfig, Phase, TrainConfig
from .trainer import Result, TrainingError, train

__all__ = ["LossConfig", "Phase", "Result", "TrainConfig", "TrainingError", "train"]
