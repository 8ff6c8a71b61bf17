"""Pixel losses against the released code's values."""

from __future__ import annotations

import pytest
import torch

from semillie_core.losses import gradient_loss, structure_loss


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


def test_are_zero_for_equal_images_and_differentiable():
    image = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    assert structure_loss(image, image) == 0
    assert gradient_loss(image, image) == 0
    other = torch.rand(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: structure_loss(x, image) + gradient_loss(x, image), other)
