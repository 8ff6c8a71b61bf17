"""Training data: pairs on disk, crops and views, and the sensor model that makes dark photos."""

from .pairs import DataError, Pair, find_pairs, read_rgb
from .sampling import Batch, PairSampler, SamplingConfig, SourceConfig

__all__ = [
    "Batch",
    "DataError",
    "Pair",
    "PairSampler",
    "SamplingConfig",
    "SourceConfig",
    "find_pairs",
    "read_rgb",
]
