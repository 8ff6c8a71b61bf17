"""From a loaded model and an image to an enhanced image."""

from ..out_of_memory import is_out_of_memory
from .controls import NETWORK_ALONE, NOISE_REDUCTION_ALONE, EnhanceControls
from .enhance import Enhancement, enhance

__all__ = [
    "NETWORK_ALONE",
    "NOISE_REDUCTION_ALONE",
    "EnhanceControls",
    "Enhancement",
    "enhance",
    "is_out_of_memory",
]
