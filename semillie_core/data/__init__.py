"""Training data: pairs and dark photos on disk, crops and views, and the sensor model that makes dark photos."""

from .config import DataConfig, SourceConfig, StrongViewConfig, UnpairedConfig
from .pairs import DataError, Pair, find_images, find_pairs, read_rgb
from .sampling import Batch, StepData, StepShape, TrainingData, UnpairedBatch, steps

__all__ = [
    "Batch",
    "DataConfig",
    "DataError",
    "Pair",
    "SourceConfig",
    "StepData",
    "StepShape",
    "StrongViewConfig",
    "TrainingData",
    "UnpairedBatch",
    "UnpairedConfig",
    "find_images",
    "find_pairs",
    "read_rgb",
    "steps",
]
