"""Training losses, each as a function and as a module."""

from .pixel import ColourLoss, GradientLoss, StructureLoss, colour_loss, gradient_loss, structure_loss

__all__ = ["ColourLoss", "GradientLoss", "StructureLoss", "colour_loss", "gradient_loss", "structure_loss"]
