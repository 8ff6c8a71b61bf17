"""Training losses, each as a function and as a module."""

from .pixel import (
    ColourLoss,
    GradientLoss,
    SSIMLoss,
    StructureLoss,
    colour_loss,
    gradient_loss,
    ssim_loss,
    structure_loss,
)

__all__ = [
    "ColourLoss",
    "GradientLoss",
    "SSIMLoss",
    "StructureLoss",
    "colour_loss",
    "gradient_loss",
    "ssim_loss",
    "structure_loss",
]
