"""What a picture or a pair is worth."""

from .fidelity import psnr, psnr_gt_mean, scale_to_gt_mean, ssim, ssim_gt_mean

__all__ = ["psnr", "psnr_gt_mean", "scale_to_gt_mean", "ssim", "ssim_gt_mean"]
