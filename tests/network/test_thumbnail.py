"""Matrix products in place of PyTorch's pooling and sampling: the same values, on every device."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from semillie_core.inference import enhance
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.network.thumbnail import average_areas, make_thumbnail, sample_region

CONFIG = SemiLLIEConfig(
    embed_dim=32, depths=(1,), d_state=4, expand=1.0, downscale=4, thumbnail=32, thumbnail_depth=1
)
NOT_ON_EVERY_DEVICE = ("adaptive_avg_pool", "grid_sampler", "bicubic", "_aa")


class Recording(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))

    def refused(self):
        return [name for name in self.names if any(part in name for part in NOT_ON_EVERY_DEVICE)]


def torch_sample(grid, region, size, stride):
    """What :func:`sample_region` gives, by PyTorch's own sampling."""

    def centres(start, extent, pixels):
        cells = torch.arange(-(-pixels // stride), dtype=grid.dtype)
        return 2 * (start[:, None] + extent[:, None] * (cells + 0.5) * stride / pixels) - 1

    rows, columns = (centres(region[:, i], region[:, i + 2], size[i]) for i in range(2))
    shape = (len(grid), rows.shape[1], columns.shape[1])
    points = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(grid, points, padding_mode="border", align_corners=False)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    channels_last=st.booleans(),
)
def test_areas_are_those_of_adaptive_pooling(height, width, rows, columns, channels_last):
    image = torch.rand(2, 3, height, width)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    # In float64, because PyTorch's own sum over a large area is off by more than a millionth in float32.
    expected = F.adaptive_avg_pool2d(image.double(), (rows, columns))
    torch.testing.assert_close(average_areas(image.double(), (rows, columns)), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(average_areas(image, (rows, columns)), expected.float(), atol=1e-6, rtol=0)


def test_the_thumbnail_of_a_photo():
    photo = torch.rand(1, 3, 1999, 3001)
    # PyTorch's sum over so many pixels is itself off by more than that in float32.
    expected = F.interpolate(photo.double(), (43, 64), mode="area").float()
    for order in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(
            make_thumbnail(photo.contiguous(memory_format=order), 64), expected, atol=1e-6, rtol=0
        )


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    rows=st.integers(1, 90),
    columns=st.integers(1, 90),
    stride=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 99),
)
def test_samples_are_those_of_bilinear_sampling(height, width, rows, columns, stride, seed):
    torch.manual_seed(seed)
    grid = torch.rand(2, 5, height, width)
    region = torch.cat([torch.rand(2, 2) * 0.5, torch.rand(2, 2) * 0.5], dim=1)
    for part in (region, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4)):
        expected = torch_sample(grid, part, (rows, columns), stride)
        actual = sample_region(grid, part, (rows, columns), stride)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    image = torch.rand(1, 3, 333, 500).to(dtype)
    small = average_areas(image, (9, 64))
    assert small.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(small.float(), F.adaptive_avg_pool2d(image.float(), (9, 64)), atol=0, rtol=eps)
    region = torch.tensor([[0.1, 0.2, 0.5, 0.7]])
    sampled = sample_region(small, region.to(dtype), (300, 400))
    expected = torch_sample(small.float(), region.to(dtype).float(), (300, 400), 1)
    assert sampled.dtype == dtype
    torch.testing.assert_close(sampled.float(), expected, atol=1e-5, rtol=eps)


def test_autocast_does_not_reach_them():
    image, region = torch.rand(1, 3, 100, 150), torch.tensor([[0.1, 0.2, 0.5, 0.7]])
    exact = average_areas(image, (7, 9)), sample_region(image, region, (40, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(average_areas(image, (7, 9)), exact[0])
        assert torch.equal(sample_region(image, region, (40, 40)), exact[1])


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_are_those_of_pooling_and_sampling(channels_last):
    order = torch.channels_last if channels_last else torch.contiguous_format
    region = torch.tensor([[0.1, 0.2, 0.5, 0.7]], dtype=torch.float64)
    found = []
    for pool, sample in (
        (average_areas, sample_region),
        (F.adaptive_avg_pool2d, torch_sample),
    ):
        torch.manual_seed(0)
        image = torch.rand(1, 3, 31, 47, dtype=torch.float64).contiguous(memory_format=order)
        sampled = sample(pool(image.requires_grad_(), (7, 11)), region, (19, 23), 2)
        sampled.square().sum().backward()
        found.append(image.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("size", [(90, 130), (500, 301)])
def test_every_operator_is_one_that_apple_gpus_have(size):
    torch.manual_seed(0)
    network = SemiLLIE(CONFIG)
    with Recording() as training:
        network.train()(torch.rand(1, 3, *size)).image.square().sum().backward()
    with Recording() as inference:
        enhance(network.eval(), torch.rand(2, 3, *size), tile=128, steady_frames=2)
    assert inference.names and training.names
    assert inference.refused() == training.refused() == []
