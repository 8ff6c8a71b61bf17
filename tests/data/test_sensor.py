"""The sensor model against the physics it claims."""

import pytest
import torch

from semillie_core.colour import linear_to_srgb, srgb_to_linear
from semillie_core.data.sensor import simulate_low_light


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_transfer_curve_matches_the_standard_and_inverts():
    # IEC 61966-2-1: code value 0.5 is linear 0.21404114, and the curve is linear below 0.04045.
    assert srgb_to_linear(torch.tensor(0.5, dtype=torch.float64)).item() == pytest.approx(
        0.21404114048, abs=1e-10
    )
    assert srgb_to_linear(torch.tensor(0.04, dtype=torch.float64)).item() == pytest.approx(
        0.04 / 12.92, abs=1e-12
    )
    ramp = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(ramp)), ramp, atol=1e-6, rtol=0)


@pytest.mark.parametrize("full_well", [500.0, 4000.0])
def test_noise_has_the_variance_of_photons_and_electronics(full_well):
    read_noise, stops, level = 5.0, -2.0, 0.7
    image = torch.full((3, 400, 400), level, dtype=torch.float64)
    dark = simulate_low_light(
        image,
        exposure_ev=stops,
        full_well_electrons=full_well,
        read_noise_electrons=read_noise,
        generator=generator(),
    )
    electrons = srgb_to_linear(dark) * full_well
    expected_mean = float(srgb_to_linear(torch.tensor(level, dtype=torch.float64))) * 2**stops * full_well
    assert electrons.mean().item() == pytest.approx(expected_mean, rel=5e-3)
    assert electrons.var().item() == pytest.approx(expected_mean + read_noise**2, rel=0.03)


def test_exposure_darkens_by_whole_stops_without_noise():
    image = torch.rand(3, 16, 16, dtype=torch.float64, generator=generator())
    # So many electrons that the noise is below the quantisation.
    dark = simulate_low_light(
        image, exposure_ev=-1.0, full_well_electrons=1e12, read_noise_electrons=0.0, generator=generator()
    )
    torch.testing.assert_close(dark, linear_to_srgb(srgb_to_linear(image) / 2), atol=0.5 / 255 + 1e-4, rtol=0)


def test_result_is_eight_bit_within_range_and_reproducible():
    image = torch.rand(2, 3, 9, 7, generator=generator())
    arguments = {"exposure_ev": -3.0, "full_well_electrons": 300.0, "read_noise_electrons": 8.0}
    dark = simulate_low_light(image, generator=generator(5), **arguments)
    assert dark.shape == image.shape
    assert dark.min() >= 0
    assert dark.max() <= 1
    torch.testing.assert_close(dark * 255, (dark * 255).round(), atol=1e-4, rtol=0)
    assert torch.equal(dark, simulate_low_light(image, generator=generator(5), **arguments))
    assert not torch.equal(dark, simulate_low_light(image, generator=generator(6), **arguments))


def test_each_image_of_a_batch_gets_its_own_parameters():
    image = torch.full((3, 3, 64, 64), 0.6)
    dark = simulate_low_light(
        image,
        exposure_ev=torch.tensor([-1.0, -2.0, -3.0]),
        full_well_electrons=torch.tensor([1e4, 1e5, 1e6]),
        read_noise_electrons=torch.tensor([0.0, 1.0, 2.0]),
        white_balance_gains=torch.tensor([[1.0, 1.0, 1.0], [1.2, 1.0, 0.8], [0.5, 1.0, 1.0]]),
        generator=generator(),
    )
    means = srgb_to_linear(dark).mean((2, 3)) / srgb_to_linear(image).mean((2, 3))
    expected = torch.tensor([[1, 1, 1], [1.2, 1, 0.8], [0.5, 1, 1]]) * torch.tensor([[0.5], [0.25], [0.125]])
    torch.testing.assert_close(means, expected, rtol=0.02, atol=0.002)


def test_white_stays_at_the_full_well():
    bright = simulate_low_light(torch.ones(3, 8, 8), exposure_ev=3.0, generator=generator())
    assert torch.equal(bright, torch.ones(3, 8, 8))
