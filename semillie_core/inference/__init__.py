"""From a loaded model and an image to an enhanced image."""

from .controls import EnhanceControls
from .enhance import Enhancement, enhance, is_out_of_memory

__all__ = ["EnhanceControls", "Enhancement", "enhance", "is_out_of_memory"]
