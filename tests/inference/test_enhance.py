"""From image to enhanced image: shapes, tiles, controls, memory, progress."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from semillie_core.colour import luma
from semillie_core.inference import NETWORK_ALONE, EnhanceControls, enhance, is_out_of_memory
from semillie_core.inference.clip_light import average_in_shots, find_shots, measure_light, steady_light
from semillie_core.inference.controls import (
    GAMUT_SHOULDER,
    HIGHLIGHT_CEILING,
    area_luma,
    darkness,
    expose,
    into_gamut,
)
from semillie_core.inference.tiling import blend_tiles, plan_tiles
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.weights import load_model


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = SemiLLIEConfig(
        embed_dim=32, depths=(1,), d_state=4, expand=1.0, downscale=4, thumbnail=32, thumbnail_depth=1
    )
    net = SemiLLIE(config).eval().requires_grad_(False)
    torch.nn.init.normal_(net.conv_last.weight, std=1e-3)
    return net


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 64)])
def test_shape_range_and_input_survive(network, channels, size):
    image = torch.rand(2, channels, *size)
    before = image.clone()
    result = enhance(network, image)
    assert result.image.shape == image.shape
    assert result.image.dtype == torch.float32
    assert result.illumination.shape == (2, *size)
    for values in result:
        assert values.min() >= 0
        assert values.max() <= 1
    assert torch.equal(image, before)
    if channels == 4:
        assert torch.equal(result.image[:, 3], image[:, 3])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_result_becomes_channels_last_without_a_copy(network, channels):
    assert enhance(network, torch.rand(2, channels, 20, 24)).image.movedim(1, -1).is_contiguous()


def test_values_outside_the_range_are_clamped(network):
    wild = torch.rand(1, 4, 20, 24) * 1.6 - 0.3
    for result, expected in zip(enhance(network, wild), enhance(network, wild.clamp(0, 1)), strict=True):
        assert torch.equal(result, expected)


def test_black_and_white_stays_black_and_white():
    network = load_model("semillie-compact").network
    grey, colour = torch.rand(1, 1, 24, 32) * 0.1, torch.rand(1, 3, 24, 32) * 0.1
    one = enhance(network, grey).image
    three = enhance(network, torch.cat([grey.expand(1, 3, 24, 32), colour]), batch_size=2).image
    torch.testing.assert_close(three[:1], one.expand(1, 3, 24, 32), atol=1e-5, rtol=0)
    assert (three[1].max(0).values - three[1].min(0).values).mean() > 1 / 255


def test_a_learning_network_enhances_without_random_depth_and_goes_on_learning():
    torch.manual_seed(0)
    learning = SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(3,), d_state=2, downscale=4, drop_path_rate=0.9))
    torch.nn.init.normal_(learning.conv_last.weight, std=0.05)
    photo = torch.rand(1, 3, 16, 16)
    results = [enhance(learning.train(), photo).image for _ in range(3)]
    assert all(torch.equal(result, results[0]) for result in results)
    assert learning.training
    enhance(learning.eval(), photo)
    assert not learning.training


def test_flat_dark_frames_come_out_flat_up_to_their_borders():
    generator = torch.Generator().manual_seed(0)
    frame = (0.03 + 0.004 * torch.randn(1, 3, 200, 300, generator=generator)).clamp(0, 1)
    result = 255 * enhance(load_model("semillie-compact"), frame, controls=NETWORK_ALONE).image[0]
    middle = result[:, 80:120, 100:200].mean((1, 2))
    strips = (result[:, :6], result[:, -6:], result[:, :, :6], result[:, :, -6:], result[:, -12:, -12:])
    for strip in strips:
        assert (strip.mean((1, 2)) - middle).abs().max() < 10


def test_chunks_of_a_batch_change_nothing(network):
    images = torch.rand(5, 3, 20, 24)
    one, two = (enhance(network, images, batch_size=n).image for n in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_tiles_agree_on_exposure(network):
    torch.manual_seed(0)
    frame = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 6) * 0.3, (300, 400), mode="bicubic").clamp(
        0, 1
    )
    whole = enhance(network, frame).image
    tiled = enhance(network, frame, tile=160).image
    # The remaining difference is the scan's reach across tile borders.
    assert (tiled.mean() - whole.mean()).abs() < 1 / 255
    assert (tiled - whole).abs().mean() < 1 / 255


def test_strength_zero_and_empty_mask_return_the_input(network):
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(enhance(network, image, controls=EnhanceControls(strength=0)).image, image)
    torch.testing.assert_close(enhance(network, image, mask=torch.zeros(1, 16, 16)).image, image)
    masked = enhance(network, image, mask=torch.ones(2, 16, 16)).image
    torch.testing.assert_close(masked, enhance(network, image).image)


def test_mask_limits_the_change(network):
    image = torch.full((1, 3, 16, 16), 0.1)
    mask = torch.zeros(1, 16, 16)
    mask[:, :, 8:] = 1
    result = enhance(network, image, mask=mask).image
    torch.testing.assert_close(result[..., :8], image[..., :8])
    assert (result[..., 8:] > 0.15).all()
    each = enhance(
        network, image.expand(3, -1, -1, -1), mask=torch.stack([0 * mask[0], 0 * mask[0], mask[0]])
    ).image
    assert torch.equal(each[:2], image.expand(2, -1, -1, -1))
    torch.testing.assert_close(each[2:], result)


def test_mask_values_outside_the_range_are_clamped(network):
    image = torch.rand(2, 3, 16, 16) * 0.2
    wild = torch.rand(2, 16, 16) * 4 - 1
    torch.testing.assert_close(
        enhance(network, image, mask=wild).image, enhance(network, image, mask=wild.clamp(0, 1)).image
    )


def test_controls_do_what_they_say(network):
    image = torch.rand(1, 3, 24, 24) * 0.2
    plain = enhance(network, image).image
    brighter = enhance(network, image, controls=EnhanceControls(brightness=1)).image
    assert (brighter >= plain).all()
    assert brighter.mean() > plain.mean()
    grey = enhance(network, image, controls=EnhanceControls(saturation=0)).image
    torch.testing.assert_close(grey, luma(plain).expand_as(grey))
    colours = torch.rand(1, 3, 24, 24)
    vivid = replace(NETWORK_ALONE, saturation=2.0).apply(colours, colours)
    torch.testing.assert_close(vivid, (2 * colours - luma(colours)).clamp(0, 1))
    mask = torch.rand(1, 24, 24)
    half = replace(NETWORK_ALONE, strength=0.5).apply(colours, vivid, mask)
    torch.testing.assert_close(half, colours + 0.5 * mask * (vivid - colours))


def test_areas_are_told_apart_by_strong_edges_and_not_by_texture():
    texture = 0.05 * torch.randn(1, 1, 48, 64)
    light = torch.tensor([0.1, 0.8]).repeat_interleave(32)
    area = area_luma((light + texture).expand(1, 3, 48, 64))
    assert (area - light).abs().max() < 0.15
    assert area[..., :20].std() < 0.3 * texture[..., :20].std()


def test_lit_areas_keep_their_texture_and_dark_ones_are_enhanced():
    generator = torch.Generator().manual_seed(0)
    texture = 0.03 * torch.randn(1, 1, 64, 96, generator=generator)
    light = torch.tensor([0.05, 0.4, 0.95]).repeat_interleave(32)
    original = (light + texture).clamp(0, 1).expand(1, 3, 64, 96)
    enhanced = 1 - (1 - original) ** 12
    blown = NETWORK_ALONE.apply(original, enhanced)
    assert torch.equal(blown, enhanced)
    kept = replace(NETWORK_ALONE, protect_highlights=1.0).apply(original, enhanced)
    half = replace(NETWORK_ALONE, protect_highlights=0.5).apply(original, enhanced)
    torch.testing.assert_close(half, (kept + enhanced) / 2)
    # Away from the borders of the three areas.
    dark, wall, lamp = (slice(32 * i + 10, 32 * i + 22) for i in range(3))
    torch.testing.assert_close(kept[..., dark], enhanced[..., dark])
    assert enhanced[..., wall].mean() > 0.99
    assert kept[..., wall].mean() == pytest.approx(HIGHLIGHT_CEILING, abs=0.02)
    assert kept[..., wall].std() > 5 * enhanced[..., wall].std()
    torch.testing.assert_close(kept[..., lamp], original[..., lamp], atol=0.02, rtol=0)


def test_highlight_protection_takes_any_size():
    for height, width in ((1, 1), (1, 7), (2, 300), (600, 5)):
        image = torch.full((2, 3, height, width), 0.5)
        result = EnhanceControls(keep_well_lit=False).apply(image, torch.ones_like(image))
        torch.testing.assert_close(result, torch.full_like(image, HIGHLIGHT_CEILING))


@given(stops=st.floats(-4, 4), value=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_exposure_stays_in_range_and_is_exact_in_the_shadows(stops, value):
    result = expose(torch.tensor([value, 1e-4]), stops)
    assert 0 <= result[0] <= 1 + 1e-6
    assert result[1] == pytest.approx(1e-4 * 2**stops, rel=1e-3)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("strength", 0, 1),
        ("brightness", -4, 4),
        ("saturation", 0, 4),
        ("protect_highlights", 0, 1),
        ("noise_reduction", 0, 4),
    ],
)
def test_controls_out_of_range_are_named(field, low, high):
    for value in (low, high):
        EnhanceControls(**{field: value})
    for value in (low - 0.01, high + 0.01, math.nan):
        with pytest.raises(ValueError, match=f"{field} must be between {low} and {high}"):
            EnhanceControls(**{field: value})


def test_progress_counts_every_tile_and_shows_finished_images(network):
    seen = []
    enhance(network, torch.rand(2, 3, 200, 150), tile=128, progress=lambda *a: seen.append(a))
    tiles = len(plan_tiles(200, 150, 128))
    assert [done for done, _, _ in seen] == list(range(1, 2 * tiles + 1))
    assert {total for _, total, _ in seen} == {2 * tiles}
    assert [preview is not None for _, _, preview in seen] == ([False] * (tiles - 1) + [True]) * 2


def test_progress_can_stop_the_work(network):
    def cancel(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance(network, torch.rand(1, 3, 200, 150), tile=128, progress=cancel)


def test_progress_is_told_and_can_stop_while_a_clip_is_measured(network):
    seen = []
    clip = torch.rand(5, 3, 20, 24)
    enhance(network, clip, steady_frames=4, batch_size=2, progress=lambda *a: seen.append(a))
    assert [(done, total) for done, total, _ in seen] == [(0, 5)] * 3 + [(done, 5) for done in range(1, 6)]

    def cancel(done, *_):
        assert done == 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance(network, clip, steady_frames=4, progress=cancel)


def test_a_check_can_stop_the_work_inside_a_frame_and_leaves_no_trace(network):
    image, calls = torch.rand(1, 3, 40, 48), []
    plain = enhance(network, image)
    checked = enhance(network, image, check=lambda: calls.append(1))
    assert all(torch.equal(one, two) for one, two in zip(plain, checked, strict=True))
    assert len(calls) > 10

    remaining = iter(range(len(calls) // 2))

    def stop():
        if next(remaining, None) is None:
            raise InterruptedError

    def finished(*_):
        raise AssertionError

    with pytest.raises(InterruptedError):
        enhance(network, image, check=stop, progress=finished)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_out_of_memory_halves_the_images_of_a_pass_before_the_tile(network, monkeypatch):
    forward = SemiLLIE.forward
    passes, seen = [], []

    def limited(self, image, *rest):
        passes.append((len(image), max(image.shape[2:])))
        if len(image) * image.shape[2] * image.shape[3] > most:
            raise torch.OutOfMemoryError("pretended")
        return forward(self, image, *rest)

    def limited_run(**options):
        passes.clear()
        seen.clear()
        return enhance(network, images, progress=lambda *a: seen.append(a[:2]), **options).image

    images = torch.rand(7, 3, 150, 260) * 0.1
    one_by_one = enhance(network, images).image
    monkeypatch.setattr(SemiLLIE, "forward", limited)

    most = 2 * 150 * 260
    torch.testing.assert_close(limited_run(batch_size=5), one_by_one, atol=1e-5, rtol=0)
    assert passes == [(5, 260), (3, 260), (2, 260), (2, 260), (2, 260), (1, 260)]
    assert seen == [(done, 7) for done in range(1, 8)]

    most = 130 * 130
    limited_run(batch_size=2)
    assert passes[:3] == [(2, 260), (1, 260), (1, 130)]
    assert set(passes[3:]) == {(1, 130)}


def test_clips_are_measured_with_fewer_frames_at_once_where_memory_runs_out(network, monkeypatch):
    estimate = SemiLLIE.estimate_frame

    def limited(self, frames):
        if len(frames) > 2:
            raise torch.OutOfMemoryError("pretended")
        return estimate(self, frames)

    clip = pan(5)
    expected = enhance(network, clip, steady_frames=4).image
    monkeypatch.setattr(SemiLLIE, "estimate_frame", limited)
    result = enhance(network, clip, steady_frames=4, batch_size=5).image
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_the_share_that_is_done_never_falls_when_tiles_become_smaller(network, monkeypatch):
    forward = SemiLLIE.forward
    seen, passes = [], iter(range(99))

    def limited(self, image, *rest):
        if next(passes) == 7:
            raise torch.OutOfMemoryError("pretended")
        return forward(self, image, *rest)

    monkeypatch.setattr(SemiLLIE, "forward", limited)
    image = torch.rand(2, 3, 300, 400)
    enhance(network, image, tile=256, progress=lambda done, total, _: seen.append((done, total)))
    assert len(plan_tiles(300, 400, 256)) == 4
    assert len(plan_tiles(300, 400, 128)) == 12
    # The last tile of the second image fails, which is then begun anew.
    assert seen[:7] == [(done, 8) for done in range(1, 8)]
    assert seen[7:] == [(21, 24)] * 9 + [(22, 24), (23, 24), (24, 24)]


def test_out_of_memory_halves_the_tile_and_goes_on(network, monkeypatch):
    forward = SemiLLIE.forward
    sizes = []

    def limited(self, image, *rest):
        sizes.append(max(image.shape[2:]))
        if sizes[-1] > 200:
            raise torch.OutOfMemoryError("pretended")
        return forward(self, image, *rest)

    monkeypatch.setattr(SemiLLIE, "forward", limited)
    image = torch.rand(2, 3, 300, 400)
    result = enhance(network, image, tile=384).image
    assert result.shape == image.shape
    # 384, then 192 for the rest: the second image does not start over.
    assert sizes.count(384) == 1
    assert max(sizes[1:]) == 192

    monkeypatch.setattr(
        SemiLLIE, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("always"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        enhance(network, image)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("Invalid buffer size: 25.89 GiB"), True),
        (
            RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
            True,
        ),
        (RuntimeError("level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"), True),
        (RuntimeError("Native API failed. Native API returns: -6 (PI_ERROR_OUT_OF_HOST_MEMORY)"), True),
        (RuntimeError("Current platform can NOT allocate memory block with size larger than 4GB!"), True),
        (RuntimeError("Could not allocate tensor. There is not enough GPU video memory available!"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), False),
        (RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_failed_allocations_are_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_other_errors_pass_through(network, monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(SemiLLIE, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        enhance(network, torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("image", "options", "says"),
    [
        (torch.rand(3, 8, 8), {}, r"\(B, C, H, W\)"),
        (torch.rand(1, 2, 8, 8), {}, "C 1, 3 or 4"),
        (torch.rand(0, 3, 8, 8), {}, "empty"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, "floating-point"),
        (torch.full((1, 3, 8, 8), torch.nan), {}, "NaN"),
        (torch.rand(1, 3, 8, 8), {"mask": torch.rand(1, 4, 8)}, r"mask must be \(1, 8, 8\), got \(1, 4, 8\)"),
        (torch.rand(3, 3, 8, 8), {"mask": torch.rand(2, 8, 8)}, r"mask must be \(1, 8, 8\) or \(3, 8, 8\)"),
        (torch.rand(1, 3, 8, 8), {"mask": torch.full((1, 8, 8), torch.nan)}, "mask holds NaN"),
        (torch.rand(1, 3, 8, 8), {"tile": 16}, "tile"),
        (torch.rand(1, 3, 8, 8), {"batch_size": 0}, "batch_size"),
        (torch.rand(1, 3, 8, 8), {"steady_frames": 0}, "steady_frames"),
    ],
)
def test_bad_input_is_named(network, image, options, says):
    with pytest.raises(ValueError, match=says):
        enhance(network, image, **options)


@given(height=st.integers(1, 900), width=st.integers(1, 900), edge=st.integers(128, 400))
@settings(max_examples=50, deadline=None)
def test_tiles_cover_the_frame_and_blend_to_one(height, width, edge):
    covered = torch.zeros(height, width)
    for tile in plan_tiles(height, width, edge):
        assert tile.height <= edge or len(plan_tiles(height, width, edge)) == 1
        window = tile.window(height, width)
        assert window.min() > 0
        covered[tile.rows, tile.columns] += window
    assert covered.min() > 0.4


def test_tiles_are_spaced_evenly_and_pass_into_one_another_slowly():
    assert [(tile.top, tile.left) for tile in plan_tiles(100, 300, 128)] == [(0, 0), (0, 86), (0, 172)]
    for size in ((128, 200), (200, 128)):
        axis = size.index(200)
        # Zero in the first tile, one in the second.
        second = blend_tiles(
            torch.zeros(1, 1, *size), 128, lambda tile, region: tile + region[0, :2].sum().sign()
        )
        steps = second.diff(dim=2 + axis)
        assert steps.min() >= 0 and steps.max() < 0.1
        assert second.min() == 0 and second.max() == 1


@pytest.mark.parametrize("edge", [None, 128])
def test_tiles_are_told_where_they_lie_and_blend_back(edge):
    rows, columns = torch.meshgrid(torch.arange(200.0), torch.arange(300.0), indexing="ij")
    frames = torch.stack([rows / 200, columns / 300]).expand(2, 2, 200, 300)

    def work(tile, region):
        height, width = tile.shape[2:]
        expected = torch.stack([*tile[0, :, 0, 0], torch.tensor(height / 200), torch.tensor(width / 300)])
        torch.testing.assert_close(region, expected.expand(2, 4))
        return 1 - tile

    torch.testing.assert_close(blend_tiles(frames, edge, work), 1 - frames)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_work(dtype):
    torch.manual_seed(0)
    net = SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=4, downscale=4, thumbnail=32)).eval()
    image = torch.rand(1, 3, 40, 48) * 0.2
    exact = enhance(net, image).image
    half = enhance(net, image, dtype=dtype).image
    assert torch.isfinite(half).all()
    assert half.dtype == torch.float32
    assert net.conv_first.weight.dtype == dtype
    assert not torch.equal(half, exact)
    assert (half - exact).abs().mean() < 0.02


def test_photos_that_are_lit_well_stay_as_they_are(network):
    dark, between, bright = (torch.full((1, 3, 20, 30), value) for value in (0.1, 0.22, 0.4))
    between[..., :2] = 0.6
    plain = EnhanceControls(keep_well_lit=False)
    batch = torch.cat([dark, between, bright])
    forced, kept = enhance(network, batch, controls=plain).image, enhance(network, batch).image
    assert torch.equal(kept[0], forced[0])
    assert torch.equal(kept[2], bright[0])
    torch.testing.assert_close(kept[1], (between[0] + forced[1]) / 2)
    # A dark photo with a bright window is dark.
    window = dark.clone()
    window[..., :8, :10] = 1.0
    assert torch.equal(enhance(network, window).image, enhance(network, window, controls=plain).image)


def test_a_dim_photo_in_which_nothing_is_bright_is_dark():
    dim = torch.full((1, 3, 20, 30), 0.25)
    window = dim.clone()
    window[..., :2] = 0.6
    assert darkness(dim) == 1
    assert darkness(window) < 0.2
    # A level grey is no underexposed photo.
    assert darkness(dim + 0.14) == 0
    # Neither a few bright pixels nor noise are something bright.
    sparks = dim.clone()
    sparks[..., ::10, ::10] = 1.0
    assert darkness(sparks) == 1
    assert darkness((0.25 + 0.15 * torch.randn(1, 3, 300, 300)).clamp(0, 1)) == 1


def test_photos_are_kept_one_by_one(network):
    batch = torch.stack([torch.full((3, 20, 30), value) for value in (0.1, 0.35, 0.4)])
    alone, together = (enhance(network, batch, batch_size=count).image for count in (1, 3))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.equal(alone[0], batch[0]) and torch.equal(alone[2], batch[2])
    # The same where the controls are applied to what is there already.
    torch.testing.assert_close(EnhanceControls().apply(batch, batch + 0.2)[2], batch[2])


def test_colours_out_of_range_keep_their_texture():
    ramp = torch.linspace(0.5, 1.3, 200)
    red = torch.stack([ramp, 0.3 * ramp, 0.2 * ramp]).view(1, 3, 1, -1)
    result = into_gamut(red)
    assert (result.diff(dim=-1) > 0).all() and result.max() <= 1
    torch.testing.assert_close(luma(result), luma(red))
    fits = red.amax(1) <= GAMUT_SHOULDER
    assert torch.equal(result[:, :, fits[0]], red[:, :, fits[0]])
    assert torch.equal(into_gamut(red, 0), red.clamp(0, 1))
    orange = torch.tensor([1.6, 1.2, 0.6]).view(1, 3, 1, 1)
    for colour in (red, orange):
        half = ((colour + into_gamut(colour)) / 2).clamp(0, 1)
        torch.testing.assert_close(into_gamut(colour, 0.5), half, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [-0.2, 0.5, 0.97, 1.0, 1.4])
def test_greys_are_cut_off_and_stay_grey(value):
    grey = torch.full((1, 3, 2, 2), value)
    torch.testing.assert_close(into_gamut(grey), grey.clamp(0, 1))


def test_brightness_and_saturation_act_on_photos_that_are_kept(network):
    bright = torch.rand(1, 3, 20, 30) * 0.2 + torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    assert torch.equal(enhance(network, bright).image, bright)

    def with_controls(**controls):
        return enhance(network, bright, controls=EnhanceControls(**controls)).image

    torch.testing.assert_close(with_controls(brightness=1.0), expose(bright, 1.0))
    torch.testing.assert_close(with_controls(saturation=0.0), luma(bright).expand_as(bright))
    torch.testing.assert_close(
        with_controls(brightness=1.0, strength=0.5), (bright + expose(bright, 1.0)) / 2
    )
    assert torch.equal(with_controls(brightness=1.0, saturation=2.0, strength=0.0), bright)


def test_the_illumination_is_one_where_nothing_needed_brightening(network):
    dark, between, bright = (torch.full((1, 3, 20, 30), value) for value in (0.1, 0.32, 0.4))
    batch = torch.cat([dark, between, bright])
    light = enhance(network, batch).illumination
    forced = enhance(network, batch, controls=EnhanceControls(keep_well_lit=False)).illumination
    torch.testing.assert_close(light[0], forced[0])
    assert (forced[1] < light[1]).all() and (light[1] < 1).all()
    assert (light[2] == 1).all() and (forced[2] < 1).all()
    darkening = copy.deepcopy(network)
    torch.nn.init.constant_(darkening.estimator.global_gain.bias, -0.5)
    darker = enhance(darkening, batch, controls=NETWORK_ALONE)
    assert (darker.image < batch).all() and (darker.illumination == 1).all()


def test_tiles_share_the_judgement_of_their_frame(network):
    photo = torch.full((1, 3, 150, 300), 0.1)
    photo[..., 160:] = 0.5
    assert torch.equal(darkness(photo), torch.ones(1))
    bright_tile = enhance(network, photo, tile=128).image[..., 280:]
    assert not torch.equal(bright_tile, photo[..., 280:])
    assert torch.equal(enhance(network, photo[..., 160:]).image, photo[..., 160:])


@pytest.fixture(scope="module")
def pumping(network):
    """The network with exposures that follow each frame's content closely."""
    torch.manual_seed(2)
    changed = copy.deepcopy(network)
    torch.nn.init.normal_(changed.estimator.global_gain.weight, std=0.3)
    return changed


def pan(frames, seed=0):
    """A camera moving over a dark scene with patches of light, ``(frames, 3, 48, 64)``."""
    torch.manual_seed(seed)
    scene = F.interpolate(torch.rand(1, 3, 4, 9).pow(3) * 0.3, (48, 64 + 2 * frames), mode="bilinear")[0]
    return torch.stack([scene[..., 2 * t : 2 * t + 64] for t in range(frames)])


def test_steady_frames_keep_the_exposure_of_a_shot(pumping):
    clip = pan(1).repeat(24, 1, 1, 1)
    clip[::2, :, :6, :6] = 1.0  # a lamp that flickers
    alone, steady = (enhance(pumping, clip, controls=NETWORK_ALONE, steady_frames=n).image for n in (1, 12))
    pumps, holds = ((c[1:, ..., 24:] - c[:-1, ..., 24:]).abs().mean() for c in (alone, steady))
    assert pumps > 1e-3
    assert holds < pumps / 4
    # The clip as a whole is as bright as before.
    assert (steady.mean() - alone.mean()).abs() < 1e-3
    by_chunks = enhance(pumping, clip, controls=NETWORK_ALONE, steady_frames=12, batch_size=5).image
    torch.testing.assert_close(by_chunks, steady, atol=1e-5, rtol=0)


def test_cuts_separate_shots_and_unrelated_photos(pumping):
    first, second = pan(8), pan(8, seed=2)
    both = torch.cat([first, second])
    assert find_shots(F.adaptive_avg_pool2d(both, 16)).tolist() == [0] * 8 + [1] * 8
    apart = [enhance(pumping, shot, steady_frames=10).image for shot in (first, second)]
    torch.testing.assert_close(enhance(pumping, both, steady_frames=10).image, torch.cat(apart))
    torch.manual_seed(0)
    photos = torch.cat([pan(1, seed) for seed in range(2, 6)])
    torch.testing.assert_close(
        enhance(pumping, photos, steady_frames=10).image, enhance(pumping, photos).image
    )


def test_a_cut_is_a_change_of_two_fifths_of_the_light_either_way():
    frames = torch.tensor([1.0, 0.61, 0.61 * 0.59]).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    assert find_shots(frames).tolist() == [0, 0, 1]
    assert find_shots(frames.flip(0)).tolist() == [0, 1, 1]


def test_noise_in_black_frames_is_no_cut():
    torch.manual_seed(0)
    assert find_shots(torch.rand(5, 3, 16, 16) / 400).tolist() == [0] * 5


@pytest.mark.parametrize("step", [(0, 2), (-2, 1), (1, -1)])
def test_a_fast_pan_is_no_cut(step):
    torch.manual_seed(0)
    scene = torch.rand(3, 40, 40).pow(4)
    frames = [scene[:, 12 + i * step[0] :, 12 + i * step[1] :][:, :16, :16] for i in range(6)]
    assert find_shots(torch.stack(frames)).tolist() == [0] * 6
    assert find_shots(torch.stack([*frames[:2], scene[:, 24:, :16]])).tolist() == [0, 0, 1]


def test_steady_frames_share_the_judgement_of_being_lit_well(network):
    levels = torch.tensor([0.29, 0.35, 0.29, 0.35, 0.29, 0.35])
    clip = levels.view(-1, 1, 1, 1).expand(-1, 3, 20, 30).contiguous()
    shares = [
        (enhance(network, clip, steady_frames=n).image - clip).mean((1, 2, 3))
        / (enhance(network, clip, controls=NETWORK_ALONE, steady_frames=n).image - clip).mean((1, 2, 3))
        for n in (1, 100)
    ]
    torch.testing.assert_close(measure_light(network, clip).darkness, darkness(clip))
    assert shares[0].max() - shares[0].min() > 0.4
    assert shares[1].max() - shares[1].min() < 0.02


def test_the_light_of_frames_is_moved_to_the_average_of_their_shot(pumping):
    clip, some = torch.cat([pan(4), pan(3, seed=2)]), slice(2, 6)
    light = measure_light(pumping, clip)
    steady, shots = steady_light([light], 4), torch.tensor([0] * 4 + [1] * 3)
    before = pumping.estimate_frame(clip[some])
    after = steady.correct(before, some)
    for name, kind in (("log_gain", light.log_gain), ("features", light.features)):
        old, new = getattr(before, name), getattr(after, name)
        mean = new.mean((2, 3), keepdim=True)
        torch.testing.assert_close(mean[..., 0, 0], average_in_shots(kind, shots, 4)[some])
        torch.testing.assert_close(new - mean, old - old.mean((2, 3), keepdim=True), atol=1e-5, rtol=0)
        assert (new - old).abs().max() > 1e-4
    expected = average_in_shots(light.darkness[:, None], shots, 4)[:, 0]
    torch.testing.assert_close(steady.darkness, expected)


def test_the_average_within_a_shot():
    values = torch.tensor([[0.0], [1.0], [0.0], [5.0], [5.0]])
    shots = torch.tensor([0, 0, 0, 1, 1])
    averaged = average_in_shots(values, shots, 1e6)
    torch.testing.assert_close(averaged, torch.tensor([[1 / 3], [1 / 3], [1 / 3], [5.0], [5.0]]))
    near, far = math.exp(-0.5 * 12 / 9), math.exp(-0.5 * 4 * 12 / 9)
    expected = torch.tensor([near / (1 + near + far), 1 / (1 + 2 * near)])
    torch.testing.assert_close(average_in_shots(values, shots, 3)[:2, 0], expected)


def test_a_network_without_a_thumbnail_has_nothing_to_steady():
    torch.manual_seed(0)
    config = SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=4)
    with pytest.raises(ValueError, match="steady_frames needs"):
        enhance(SemiLLIE(config).eval(), torch.rand(2, 3, 16, 16), steady_frames=4)
