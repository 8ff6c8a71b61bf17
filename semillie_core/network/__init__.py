"""The Semi-LLIE network: typed configuration and forward pass."""

from .config import BASE, COMPACT, GUIDED, PAPER, SINGLE_SCALE, SemiLLIEConfig
from .semi_llie import Prediction, SemiLLIE

__all__ = ["BASE", "COMPACT", "GUIDED", "PAPER", "SINGLE_SCALE", "Prediction", "SemiLLIE", "SemiLLIEConfig"]
