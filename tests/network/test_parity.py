"""The fast forms of the network against its plain composition, ``benchmarks/network_reference.py``."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from torch.nn.functional import conv2d

from semillie_core.network import COMPACT, GUIDED, PAPER, SINGLE_SCALE, SemiLLIE, blocks
from semillie_core.network.depthwise import DepthwiseConv, _DepthwiseInStrips

VARIANTS = {"paper": PAPER, "guided": GUIDED, "single-scale": SINGLE_SCALE, "compact": COMPACT}
SIZES = [(1, 1, 1), (1, 1, 7), (2, 5, 4), (2, 13, 18), (1, 37, 51)]


@pytest.fixture(scope="session")
def plain_forward(repository):
    path = repository / "benchmarks" / "network_reference.py"
    spec = importlib.util.spec_from_file_location("network_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plain_forward


def network_with_every_weight(name: str) -> SemiLLIE:
    """No stochastic depth, and no weight that starts at zero and hides what is behind it."""
    torch.manual_seed(1)
    network = SemiLLIE(dataclasses.replace(VARIANTS[name], drop_path_rate=0.0))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_inference_equals_the_plain_composition(plain_forward, variant, size):
    network = network_with_every_weight(variant).eval()
    batch, height, width = size
    image = torch.rand(batch, 3, height, width)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        seen = image.clone(memory_format=memory_format)
        with torch.inference_mode():
            ours, plain = network(seen), plain_forward(network, image)
        torch.testing.assert_close(ours.image, plain.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.illumination, plain.illumination, atol=1e-5, rtol=0)
        assert torch.equal(seen, image)
    network = network.double()
    with torch.no_grad():
        ours, plain = network(image.double()), plain_forward(network, image.double())
    torch.testing.assert_close(ours.image, plain.image, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.illumination, plain.illumination, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [(1, 37, 51), (2, 26, 5), (1, 53, 1)], ids=str)
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_inference_in_bands_equals_the_plain_composition(plain_forward, variant, size, monkeypatch):
    network = network_with_every_weight(variant).eval().double()
    batch, height, width = size
    image = torch.rand(batch, 3, height, width, dtype=torch.float64)
    heights = []
    mix = blocks.SelectiveScan2d._mix
    monkeypatch.setattr(blocks, "BAND_PIXELS", 16)
    monkeypatch.setattr(
        blocks.SelectiveScan2d, "_mix", lambda self, x: heights.append(x.shape[1]) or mix(self, x)
    )
    with torch.no_grad():
        ours, plain = network(image), plain_forward(network, image)
    assert height not in heights
    torch.testing.assert_close(ours.image, plain.image, atol=1e-12, rtol=0)


def gradients(forward, network: SemiLLIE, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss that weighs every output differently, with respect to the image and every weight."""
    image = image.clone().requires_grad_()
    weighed = {name: p for name, p in network.named_parameters() if p.requires_grad}
    prediction = forward(image)
    ramp = torch.linspace(-1, 2, image.numel(), dtype=image.dtype).view_as(image)
    loss = (prediction.image * ramp).sum() + (prediction.illumination * ramp).square().sum()
    found = torch.autograd.grad(loss, [image, *weighed.values()])
    return dict(zip(["image", *weighed], found, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [(2, 13, 18), (1, 21, 9)], ids=str)
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_gradients_equal_those_of_the_plain_composition(plain_forward, variant, size, dtype, tolerance):
    network = network_with_every_weight(variant).to(dtype).train()
    batch, height, width = size
    image = torch.rand(batch, 3, height, width, dtype=dtype)
    ours = gradients(network, network, image)
    plain = gradients(lambda x: plain_forward(network, x), network, image)
    # A gate behind two nearly closed units has gradients far below its neighbours': the scale is the network's.
    scale = max(g.abs().max() for g in plain.values())
    for name, expected in plain.items():
        error = (ours[name] - expected).abs().max()
        assert error <= tolerance * max(expected.abs().max(), 1e-3 * scale), name


@pytest.mark.parametrize(("height", "width"), [(1, 2), (1, 7), (9, 2), (6, 5)])
def test_depthwise_strips_are_the_derivative(height, width):
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_DepthwiseInStrips.apply, (x, kernel, bias))
    assert torch.autograd.gradgradcheck(_DepthwiseInStrips.apply, (x, kernel, bias))


@pytest.mark.parametrize("frozen", ["x", "weight", "bias", None])
@pytest.mark.parametrize("width", [1, 4, 5, 16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_depthwise_conv_is_the_convolution(memory_format, width, frozen):
    conv = DepthwiseConv(8, 5)
    x = torch.randn(2, 8, 6, width).to(memory_format=memory_format)
    leaves = {"x": x, "weight": conv.weight, "bias": conv.bias}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    free = [leaf for name, leaf in leaves.items() if name != frozen]
    ours, plain = conv(x), conv2d(x, conv.weight, conv.bias, padding=2, groups=8)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours.square().sum(), free),
        torch.autograd.grad(plain.square().sum(), free),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_depthwise_conv_keeps_its_fast_gradient_and_full_precision_under_autocast(dtype):
    conv = DepthwiseConv(8, 5)
    x = torch.randn(2, 8, 6, 7).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    plain = conv2d(x.float(), conv.weight, conv.bias, padding=2, groups=8)
    torch.testing.assert_close(y, plain.to(dtype))
    (expected,) = torch.autograd.grad(plain.sum(), conv.weight)
    # Products in bfloat16 would err by a hundredth.
    torch.testing.assert_close(conv.weight.grad, expected, atol=1e-5, rtol=1e-5)


def test_depthwise_conv_compiles_whole():
    conv = DepthwiseConv(8, 5)
    x = torch.randn(2, 8, 6, 7)
    torch.testing.assert_close(torch.compile(conv, backend="aot_eager", fullgraph=True)(x), conv(x))
