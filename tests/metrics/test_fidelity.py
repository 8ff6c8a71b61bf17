"""PSNR and SSIM against scikit-image, torchmetrics, closed forms and the known scores of LOLv1's inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from semillie_core.metrics import psnr, psnr_gt_mean, scale_to_gt_mean, ssim, ssim_gt_mean


def pair(height=37, width=52, channels=3, batch=2, dtype=torch.float64):
    target = torch.rand(batch, channels, height, width, dtype=dtype)
    output = (0.6 * target + 0.1 * torch.randn_like(target) + 0.05).clamp(0, 1)
    return output, target


def load(path):
    array = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0)


@pytest.fixture(scope="module")
def eval15(shared_dir):
    folder = shared_dir / "data" / "lol_eval15"
    lows = sorted((folder / "low").iterdir())
    return [(load(low), load(next((folder / "high").glob(f"{low.stem}.*")))) for low in lows]


def test_psnr_matches_skimage():
    from skimage.metrics import peak_signal_noise_ratio

    output, target = pair()
    expected = [
        peak_signal_noise_ratio(t.numpy(), o.numpy(), data_range=1.0)
        for o, t in zip(output, target, strict=True)
    ]
    assert psnr(output, target).tolist() == pytest.approx(expected, abs=1e-10)
    assert psnr(output * 255, target * 255, data_range=255).tolist() == pytest.approx(expected, abs=1e-10)


def test_psnr_of_a_known_error_and_of_identical_images():
    black = torch.zeros(1, 3, 4, 4)
    assert psnr(black + 0.1, black).item() == pytest.approx(20.0, abs=1e-5)
    assert math.isinf(psnr(black, black).item())


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_matches_skimage(channels):
    from skimage.metrics import structural_similarity

    output, target = pair(channels=channels)
    expected = [
        structural_similarity(
            o.numpy(),
            t.numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for o, t in zip(output, target, strict=True)
    ]
    assert ssim(output, target).tolist() == pytest.approx(expected, abs=1e-12)
    assert ssim(output.float(), target.float()).tolist() == pytest.approx(expected, abs=1e-5)
    assert ssim(output * 255, target * 255, data_range=255).tolist() == pytest.approx(expected, abs=1e-12)


def test_ssim_equals_the_interior_of_torchmetrics_map():
    functional = pytest.importorskip("torchmetrics.functional.image")
    output, target = pair()
    _, full = functional.structural_similarity_index_measure(
        output, target, data_range=1.0, return_full_image=True
    )
    interior = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(ssim(output, target), interior, rtol=0, atol=1e-10)


def test_ssim_is_exact_in_float32_on_flat_bright_images():
    target = 0.98 + 1e-3 * torch.rand(1, 3, 32, 32, dtype=torch.float64)
    output = 0.98 + 1e-3 * torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert ssim(output.float(), target.float()).item() == pytest.approx(ssim(output, target).item(), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_score_and_no_gradient(dtype):
    shading = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), (64, 64), mode="bilinear")
    output, target = (shading + noise * torch.randn_like(shading) for noise in (0.02, 0.01))
    output.requires_grad_()
    for metric in (psnr, ssim, psnr_gt_mean, ssim_gt_mean):
        expected = metric(output, target)
        with torch.autocast("cpu", dtype):
            score = metric(output, target)
        assert score.item() == expected.item()
        gradients = [torch.autograd.grad(value.sum(), output)[0] for value in (score, expected)]
        torch.testing.assert_close(*gradients)


def test_gradients_are_right():
    output, target = pair(12, 13, batch=1)
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: psnr(x, target), (output,))
    assert torch.autograd.gradcheck(lambda x: ssim(x, target), (output,))


def test_images_are_scored_one_by_one():
    output, target = pair(batch=3)
    for metric in (psnr, ssim, psnr_gt_mean, ssim_gt_mean):
        alone = torch.cat([metric(output[i : i + 1], target[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(metric(output, target), alone, rtol=0, atol=1e-12)


def test_unchanged_inputs_of_eval15_score_the_known_values(eval15):
    def mean(metric):
        return sum(metric(low, high).item() for low, high in eval15) / len(eval15)

    assert len(eval15) == 15
    assert mean(psnr) == pytest.approx(7.773, abs=5e-4)
    assert mean(ssim) == pytest.approx(0.195, abs=5e-4)
    assert mean(psnr_gt_mean) == pytest.approx(18.79, abs=5e-3)


def test_gt_mean_undoes_a_wrong_exposure_and_plain_psnr_does_not():
    target = 0.2 + 0.5 * torch.rand(1, 3, 16, 16)
    dark = 0.25 * target
    assert psnr_gt_mean(dark, target).item() > 100
    assert ssim_gt_mean(dark, target).item() == pytest.approx(1.0, abs=1e-5)
    assert psnr(dark, target).item() < 12
    assert torch.isfinite(scale_to_gt_mean(torch.zeros(1, 3, 4, 4), target[..., :4, :4])).all()


def test_gt_mean_goes_by_luma_and_clips():
    blue = torch.tensor([0.1, 0.1, 0.4]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    red = torch.tensor([0.6, 0.2, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    gain = (0.299 * 0.6 + 0.701 * 0.2) / (0.886 * 0.1 + 0.114 * 0.4)
    torch.testing.assert_close(scale_to_gt_mean(blue, red), (gain * blue).clamp(max=1))
    assert gain * 0.4 < 1 < gain * 0.5
    torch.testing.assert_close(scale_to_gt_mean(2 * blue, 2 * red), (2 * gain * blue).clamp(max=1))


def test_half_precision_is_scored_in_single():
    output, target = (images.half() for images in pair(dtype=torch.float32))
    for metric in (psnr, ssim, psnr_gt_mean, ssim_gt_mean):
        score = metric(output, target)
        assert score.dtype == torch.float32
        assert torch.equal(score, metric(output.float(), target.float()))


def test_bad_input_is_named():
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="same shape"):
        psnr(image, image[..., :8])
    with pytest.raises(ValueError, match="unsqueeze"):
        psnr(image[0], image[0])
    with pytest.raises(ValueError, match="non-empty"):
        psnr(image[:0], image[:0])
    with pytest.raises(ValueError, match="floating point"):
        psnr((image * 255).byte(), image)
    with pytest.raises(ValueError, match="11x11"):
        ssim(image[..., :10], image[..., :10])
    with pytest.raises(ValueError, match="1 or 3 channels"):
        psnr_gt_mean(image[:, :2], image[:, :2])
