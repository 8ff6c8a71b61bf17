"""Training losses."""

from .pixel import gradient_loss, structure_loss

__all__ = ["gradient_loss", "structure_loss"]
