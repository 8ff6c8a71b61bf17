"""Pixel losses against the released code's values and independent computations."""

from __future__ import annotations

import pytest
import torch

from semillie_core.losses import (
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


def test_match_the_released_code(parity):
    metadata, tensors = parity("semillie_losses_parity")
    output, target = tensors["x"].requires_grad_(), tensors["y"]
    values = metadata["values"]
    assert structure_loss(output, target).item() == pytest.approx(values["structure"], abs=1e-6)
    assert gradient_loss(output, target).item() == pytest.approx(values["gradient_l1"], abs=1e-6)
    (of_structure,) = torch.autograd.grad(structure_loss(output, target), output)
    (of_gradient,) = torch.autograd.grad(gradient_loss(output, target), output)
    torch.testing.assert_close(of_structure, tensors["d_structure_dx"], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(2 * of_gradient, tensors["d_gradient_total_dx"], atol=1e-7, rtol=1e-5)


def test_are_those_of_their_formulas():
    output, target = torch.rand(2, 2, 3, 7, 9, dtype=torch.float64)
    difference = output - target
    expected = 0.8 * difference.abs().mean() + 0.2 * difference.square().mean()
    assert structure_loss(output, target).item() == pytest.approx(expected.item(), abs=1e-12)

    def magnitude(image):
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
        down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
        return (down.square() + across.square() + 1e-6).sqrt()

    expected = (magnitude(output) - magnitude(target)).abs().mean()
    assert gradient_loss(output, target).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("loss", [structure_loss, gradient_loss, ssim_loss, detail_loss, colour_loss])
def test_autocast_changes_nothing(loss):
    output, target = torch.rand(2, 1, 3, 24, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(output, target)
    assert found.item() == loss(output, target).item()


def test_are_zero_for_equal_images_and_differentiable():
    image = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    assert structure_loss(image, image) == 0
    assert gradient_loss(image, image) == 0
    other = torch.rand(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: structure_loss(x, image) + gradient_loss(x, image), other)


def test_ssim_loss_matches_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    output, target = torch.rand(2, 2, 3, 24, 20, dtype=torch.float64)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = []
    for x, y in zip(output.numpy(), target.numpy(), strict=True):
        _, full = metrics.structural_similarity(x, y, channel_axis=0, full=True, **options)
        expected.append(1 - full[:, 5:-5, 5:-5].mean())
    assert ssim_loss(output, target).item() == pytest.approx(sum(expected) / 2, abs=1e-9)


def test_colour_loss_is_one_minus_the_cosine_of_colours():
    output, target = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64)
    colours = zip(
        output.permute(0, 2, 3, 1).reshape(-1, 3).tolist(),
        target.permute(0, 2, 3, 1).reshape(-1, 3).tolist(),
        strict=True,
    )
    cosines = []
    for x, y in colours:
        # The same as the cosine of colours with a fourth coordinate of eps.
        x, y = [*x, 0.01], [*y, 0.01]
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        cosines.append(dot / (sum(a * a for a in x) * sum(b * b for b in y)) ** 0.5)
    assert colour_loss(output, target).item() == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-12)


def test_colour_loss_sees_hue_and_not_brightness():
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64) * 0.5 + 0.25
    assert colour_loss(image * 0.5, image) < 1e-3
    assert colour_loss(image[:, [2, 0, 1]], image) > 0.02


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (StructureLoss(), structure_loss),
        (GradientLoss(), gradient_loss),
        (SSIMLoss(), ssim_loss),
        (ColourLoss(), colour_loss),
        (ColourLoss(0.5), lambda output, target: colour_loss(output, target, 0.5)),
    ],
)
def test_modules_are_their_functions(module, function):
    output, target = torch.rand(2, 1, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(module(output, target), function(output, target))
    assert function(target, target).abs() < 1e-12
    output.requires_grad_()
    module(output, target).backward()
    assert output.grad.abs().sum() > 0


def test_detail_loss_sees_noise_and_not_exposure():
    target = torch.rand(2, 3, 40, 33, dtype=torch.float64)
    assert detail_loss(target + 0.2, target) < 1e-12
    noise = 0.05 * torch.randn_like(target)
    hidden = 0.2 + noise
    # The gradient of a plain L1 loss is the same everywhere under an exposure error; this one's follows the noise.
    output = (target + hidden).requires_grad_()
    (gradient,) = torch.autograd.grad(detail_loss(output, target), output)
    correlation = torch.corrcoef(torch.stack([gradient.flatten(), noise.flatten()]))[0, 1]
    assert correlation > 0.7
    assert torch.equal(DetailLoss()(output, target), detail_loss(output, target))
    assert torch.equal(DetailLoss(3)(output, target), detail_loss(output, target, 3))


def test_the_surroundings_are_narrower_on_images_that_are_smaller():
    for height, width, window in ((7, 40, 7), (40, 8, 7), (1, 40, 1)):
        output, target = torch.rand(2, 1, 3, height, width, dtype=torch.float64)
        assert detail_loss(output, target) == detail_loss(output, target, window)


def test_detail_loss_is_the_difference_from_a_local_mean():
    output, target = torch.rand(2, 1, 1, 7, 9, dtype=torch.float64)
    difference = (output - target)[0, 0]
    expected = 0.0
    for y in range(7):
        for x in range(9):
            around = difference[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            expected += abs(difference[y, x] - around.mean()).item()
    assert detail_loss(output, target, window=3).item() == pytest.approx(expected / 63, abs=1e-12)
    assert detail_loss(output, target).isfinite()
