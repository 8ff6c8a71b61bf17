"""L*a*b*, ΔE and the colour cast against scikit-image and colours whose answer is known."""

from __future__ import annotations

import pytest
import torch
from skimage import color

from semillie_core.metrics import colour_cast, delta_e_76, delta_e_2000, rgb_to_lab
from semillie_core.metrics.colour import ciede2000


def channels_last(images):
    return images[0].permute(1, 2, 0).numpy()


@pytest.fixture
def pair():
    a, b = torch.rand(2, 1, 3, 40, 40, dtype=torch.float64)
    a[..., :6] = a[:, :1, :, :6]  # greys, whose hue is undefined
    b[..., 3:9] = b[:, :1, :, 3:9]
    b[..., 20:24] = a[..., 20:24]
    return a, b


def test_lab_matches_skimage(pair):
    expected = color.rgb2lab(channels_last(pair[0]))
    assert abs(channels_last(rgb_to_lab(pair[0])) - expected).max() < 5e-4


def test_delta_e_matches_skimage(pair):
    lab_a, lab_b = (color.rgb2lab(channels_last(images)) for images in pair)
    assert delta_e_76(*pair).item() == pytest.approx(color.deltaE_cie76(lab_a, lab_b).mean(), abs=1e-4)
    assert delta_e_2000(*pair).item() == pytest.approx(color.deltaE_ciede2000(lab_a, lab_b).mean(), abs=1e-4)
    assert delta_e_76(pair[0], pair[0]).item() == delta_e_2000(pair[0], pair[0]).item() == 0


def test_delta_e_2000_is_the_mean_over_all_pixels_of_a_tall_photo():
    a, b = torch.rand(2, 1, 3, 300, 4, dtype=torch.float64)
    expected = ciede2000(rgb_to_lab(a), rgb_to_lab(b)).mean().item()
    assert delta_e_2000(a, b).item() == pytest.approx(expected, abs=1e-12)


def test_autocast_changes_nothing(pair):
    output, target = (images.float() for images in pair)
    expected = delta_e_76(output, target), delta_e_2000(output, target), colour_cast(output)
    with torch.autocast("cpu", torch.bfloat16):
        found = delta_e_76(output, target), delta_e_2000(output, target), colour_cast(output)
    assert all(torch.equal(*values) for values in zip(found, expected, strict=True))


def test_ciede2000_of_each_pixel_matches_skimage_on_the_same_lab():
    lab = torch.rand(2, 1, 3, 50, 50, dtype=torch.float64) * 200 - 100
    lab[:, :, 0] = lab[:, :, 0].abs()
    a, b = lab
    expected = color.deltaE_ciede2000(channels_last(a), channels_last(b))
    assert abs(ciede2000(a, b)[0].numpy() - expected).max() < 1e-9


@pytest.mark.parametrize(
    ("lab_1", "lab_2", "expected"),
    [  # from the test data published with Sharma, Wu and Dalal (2005), table 1: pairs 1, 8, 14, 17, 25
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
        ((50.0, -0.001, 2.49), (50.0, 0.0011, -2.49), 4.7461),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_ciede2000_of_published_pairs(lab_1, lab_2, expected):
    first, second = (torch.tensor(lab, dtype=torch.float64).view(1, 3, 1) for lab in (lab_1, lab_2))
    assert ciede2000(first, second).item() == pytest.approx(expected, abs=1e-4)


def test_colour_cast_is_zero_for_grey_and_does_not_depend_on_exposure():
    grey = torch.rand(1, 1, 16, 16).mul(0.8).add(0.1).expand(1, 3, 16, 16)
    assert colour_cast(grey).abs().max().item() < 0.01

    linear = (0.1 + 0.7 * torch.rand(1, 3, 16, 16)) * torch.tensor([1.0, 0.6, 0.4]).view(1, 3, 1, 1)
    bright, dark = (colour_cast(1.055 * light ** (1 / 2.4) - 0.055) for light in (linear, linear / 4))
    assert bright[0, 0] > 5 and bright[0, 1] > 10  # towards red and yellow
    torch.testing.assert_close(bright, dark, rtol=0.05, atol=0.05)
    assert colour_cast(torch.zeros(1, 3, 4, 4)).abs().max().item() == 0


def test_colour_cast_leaves_out_what_is_clipped_or_black():
    photo = torch.tensor([0.5, 0.3, 0.3]).view(1, 3, 1, 1).repeat(1, 1, 10, 10)
    spoilt = photo.clone()
    spoilt[..., :3] = torch.tensor([0.2, 0.4, 1.0]).view(1, 3, 1, 1)
    spoilt[..., 3:6] = torch.tensor([0.0, 0.001, 0.005]).view(1, 3, 1, 1)
    torch.testing.assert_close(colour_cast(spoilt), colour_cast(photo), rtol=0, atol=1e-4)
    assert colour_cast(spoilt[..., :6]).tolist() == [[0, 0]]


def test_colour_needs_three_channels():
    with pytest.raises(ValueError, match="3 channels"):
        delta_e_2000(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4))
