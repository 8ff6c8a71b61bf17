"""Training losses, each as a function and as a module."""

from .pixel import (
    ColourLoss,
    DetailLoss,
    GradientLoss,
    SSIMLoss,
    StructureLoss,
    colour_loss,
    detail_loss,
    gradient_loss,
    ssim_loss,
    structure_loss,
)

__all__ = [
    "ColourLoss",
    "DetailLoss",
    "GradientLoss",
    "SSIMLoss",
    "StructureLoss",
    "colour_loss",
    "detail_loss",
    "gradient_loss",
    "ssim_loss",
    "structure_loss",
]
