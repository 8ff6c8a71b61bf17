"""The low-light report says what was done to the picture."""

from __future__ import annotations

import json

import pytest
import torch

from semillie_core.metrics import (
    LowLightReport,
    histogram_image,
    low_light_report,
    niqe,
    noise_levels,
    psnr,
    ssim,
)
from semillie_core.metrics import report as report_module


def scene(brightness=0.45, height=128, width=224):
    """A smooth grey scene from 0.03 to 0.97, bent by a gamma to the wanted mean."""
    coarse = torch.rand(1, 1, 5, 8)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    smooth = 0.03 + 0.94 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    low, high = 0.01, 20.0
    for _ in range(40):
        gamma = (low + high) / 2
        low, high = (gamma, high) if (smooth**gamma).mean() > brightness else (low, gamma)
    return (smooth**gamma).expand(1, 3, height, width).contiguous()


def verdict(image, reference=None):
    return low_light_report(image, reference)[0].verdict


def test_a_good_photo_is_left_in_peace():
    report = low_light_report(scene())[0]
    assert report.exposure == "well exposed"
    assert report.verdict == "well exposed: mean luminance 0.45; no visible noise, clipping or colour cast"


@pytest.mark.parametrize(
    ("brightness", "expected"),
    [
        (0.05, "strongly underexposed"),
        (0.15, "underexposed"),
        (0.26, "slightly underexposed"),
        (0.5, "well exposed"),
        (0.8, "overexposed"),
    ],
)
def test_exposure_is_named(brightness, expected):
    report = low_light_report(scene(brightness))[0]
    assert report.exposure == expected
    assert report.mean_luminance == pytest.approx(brightness, abs=0.01)
    assert report.verdict.startswith(f"{expected}: mean luminance {report.mean_luminance:.2f}")


def test_noise_clipping_cast_and_contrast_are_named():
    dark = scene(0.08)
    assert "noise" not in verdict(dark)
    assert "noise visible in shadows" in verdict(dark * (1 + 0.15 * torch.randn(1, 3, 128, 224)))
    assert "noise high in shadows" in verdict((dark * (1 + 0.6 * torch.randn(1, 3, 128, 224))).clamp(0, 1))
    assert "noise visible in midtones" in verdict((scene() + 0.06 * torch.randn(1, 3, 128, 224)).clamp(0, 1))

    burnt = scene()
    burnt[..., :8] = 1.0
    assert "highlights lost: 3.6 % burnt out" in verdict(burnt)
    crushed = scene()
    crushed[:, :, 0, :] = 0.0
    assert "0.8 % pure black" in verdict(crushed) and "lost" not in verdict(crushed)

    orange = scene() * torch.tensor([1.0, 0.65, 0.35]).view(1, 3, 1, 1)
    assert "colours lean strongly to orange" in verdict(orange)
    blue = scene() * torch.tensor([0.7, 0.8, 1.0]).view(1, 3, 1, 1)
    assert "colours lean to blue" in verdict(blue)
    crimson = scene() * torch.tensor([1.0, 0.6, 0.7]).view(1, 3, 1, 1)
    assert "colours lean to red" in verdict(crimson)
    assert "low contrast" in verdict(0.35 + 0.2 * scene())


def test_a_dark_photo_is_neither_of_low_contrast_nor_without_fault():
    assert verdict(0.05 + 0.1 * scene(0.4)) == "strongly underexposed: mean luminance 0.09"


def test_numbers_are_those_of_the_measurements():
    photo = scene() + 0.03 * torch.randn(1, 3, 128, 224)
    report = low_light_report(photo)[0]
    luma = (photo[0] * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).flatten()
    low, median, high = luma.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    assert (report.median_luminance, report.contrast) == pytest.approx((median, high - low), abs=1e-3)
    levels = noise_levels(photo)
    assert report.noise == pytest.approx(levels.luma[0].tolist())
    assert report.colour_noise == pytest.approx(levels.chroma[0].tolist())


def test_niqe_is_that_of_the_centre(monkeypatch):
    photo = torch.rand(1, 3, 200, 400)
    assert low_light_report(photo)[0].niqe == niqe(photo).item()
    monkeypatch.setattr(report_module, "NIQE_EDGE", 192)
    assert low_light_report(photo)[0].niqe == niqe(photo[:, :, 4:196, 104:296]).item()


def test_scores_against_a_reference():
    reference = scene()
    dark = reference * 0.3
    report = low_light_report(dark, reference)[0]
    assert report.psnr == pytest.approx(psnr(dark, reference).item())
    assert report.ssim == pytest.approx(ssim(dark, reference).item())
    assert report.delta_e > 20 and report.loe is not None
    assert f"against the reference: {report.psnr:.2f} dB" in report.verdict
    same = low_light_report(reference, reference)[0]
    assert "identical to the reference" in same.verdict
    assert json.loads(same.to_json())["psnr"] == "inf"
    alone = low_light_report(dark)[0]
    assert (alone.psnr, alone.ssim, alone.delta_e, alone.loe) == (None, None, None, None)


def test_batches_share_one_reference_and_keep_their_order():
    reference = scene()
    batch = torch.cat((reference * 0.1, reference, reference * 0.5))
    reports = low_light_report(batch, reference)
    assert [r.psnr for r in reports] == pytest.approx(psnr(batch, reference.expand(3, -1, -1, -1)).tolist())
    assert [r.exposure for r in reports][:2] == ["strongly underexposed", "well exposed"]
    assert reports[2] == low_light_report(batch[2:], reference)[0]


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (10, 40), (64, 64), (96, 192)])
def test_any_size_gives_json(size):
    image = torch.rand(1, 3, *size)
    report = low_light_report(image, 0.5 * image)[0]
    values = json.loads(report.to_json())
    assert (values["height"], values["width"]) == size
    assert (values["ssim"] is None) == (min(size) < 11)
    assert (values["niqe"] is None) == (size != (96, 192))
    assert values["verdict"] == report.verdict
    assert len(values["histogram"]) == 4


def test_the_histogram_picture_shows_where_the_pixels_are():
    image = torch.full((1, 3, 40, 40), 0.25)
    image[:, 0] = 0.75
    picture = histogram_image(image[0], height=100)
    assert picture.shape == (3, 100, 512)
    assert picture.min() >= 0 and picture.max() <= 1
    red, green, blue = picture[:, -20, 4 + int(0.75 * 512)]
    assert red > 0.5 > green and blue < 0.5
    red, green, blue = picture[:, -20, 4 + int(0.25 * 512)]
    assert red < 0.5 < green and blue > 0.5
    assert (picture[:, :90, 220:250] < 0.3).all()  # nothing there, nothing drawn
    torch.testing.assert_close(histogram_image(low_light_report(image)[0], height=100), picture)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="3 channels"):
        low_light_report(torch.rand(1, 4, 8, 8))
    with pytest.raises(ValueError, match="resize"):
        low_light_report(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
    with pytest.raises(ValueError, match=r"got 2x8x8 .* for 3x8x8"):
        low_light_report(torch.rand(3, 3, 8, 8), torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        histogram_image(torch.rand(1, 3, 8, 8))
    photo, broken = torch.rand(2, 1, 3, 8, 8)
    broken[0, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="image holds NaN"):
        low_light_report(broken)
    with pytest.raises(ValueError, match="reference holds NaN"):
        low_light_report(photo, broken)


def test_a_check_can_stop_the_work_between_measurements():
    photo, calls = torch.rand(1, 3, 200, 200), []
    checked = low_light_report(photo, photo, check=lambda: calls.append(1))
    assert checked == low_light_report(photo, photo)
    # Brightness, noise, colour cast, NIQE, PSNR, colour difference, LOE, SSIM.
    assert len(calls) == 8
    with pytest.raises(KeyboardInterrupt):
        low_light_report(photo, check=lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_reports_are_frozen():
    report = low_light_report(scene())[0]
    assert isinstance(report, LowLightReport)
    with pytest.raises(AttributeError):
        report.psnr = 3.0
