"""What a picture or a pair is worth: functional metrics, their stateful form, and the low-light report.

Every metric takes batches ``(B, C, H, W)`` in [0, 1] and gives one score per image, ``(B,)``;
``MeanScore(metric)`` collects them over batches. Scoring files on disk is ``metrics.evaluation``.
"""

from .aggregate import Interval, MeanScore, bootstrap_interval
from .colour import colour_cast, delta_e_76, delta_e_2000, rgb_to_lab
from .exposure import clipping, exposure_error, histogram, loe, mean_luminance
from .fidelity import psnr, psnr_gt_mean, scale_to_gt_mean, ssim, ssim_gt_mean
from .lpips import LPIPSAlex
from .naturalness import niqe
from .noise import NoiseLevels, PatchDeviation, flat_patches, noise_levels, patch_deviation
from .report import LowLightReport, histogram_image, low_light_report

__all__ = [
    "Interval",
    "LPIPSAlex",
    "LowLightReport",
    "MeanScore",
    "NoiseLevels",
    "PatchDeviation",
    "bootstrap_interval",
    "clipping",
    "colour_cast",
    "delta_e_76",
    "delta_e_2000",
    "exposure_error",
    "flat_patches",
    "histogram",
    "histogram_image",
    "loe",
    "low_light_report",
    "mean_luminance",
    "niqe",
    "noise_levels",
    "patch_deviation",
    "psnr",
    "psnr_gt_mean",
    "rgb_to_lab",
    "scale_to_gt_mean",
    "ssim",
    "ssim_gt_mean",
]
