"""The semantic encoders: one protocol, frozen networks, gradients to the image."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import semillie_core.ram
from semillie_core.ram import (
    RAM,
    EfficientNetLite0Encoder,
    RAMEncoder,
    SemanticEncoder,
    SemanticFeatures,
    load_efficientnet_lite0,
)
from semillie_core.ram.efficientnet import EfficientNetLite0, compact_tensors
from semillie_core.ram.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise

DATA = Path(semillie_core.ram.__file__).parent / "data"


@pytest.fixture(scope="module")
def lite() -> EfficientNetLite0Encoder:
    return load_efficientnet_lite0().encoder


@pytest.fixture(params=["lite", "ram", "ram_plus"])
def encoder(request, lite, tiny_configs, fill):
    return lite if request.param == "lite" else RAMEncoder(fill(RAM(tiny_configs[request.param])))


def _sum(features: SemanticFeatures) -> Tensor:
    parts = [*features.maps, features.tokens, features.embedding, features.logits]
    return sum(part.square().mean() for part in parts if part is not None)


def test_protocol(encoder) -> None:
    assert isinstance(encoder, SemanticEncoder)
    assert encoder.is_ram != ("not RAM" in encoder.name)
    features = encoder.encode(torch.rand(2, 3, 96, 64), logits=True)
    assert len(features.maps) >= 2
    for fine, coarse in zip(features.maps, features.maps[1:], strict=False):
        assert fine.shape[0] == coarse.shape[0] == 2
        assert fine.shape[2] > coarse.shape[2]
        assert fine.shape[1] < coarse.shape[1]
    assert features.embedding.dim() == 2
    assert features.logits.shape[0] == 2
    if encoder.is_ram:
        assert torch.equal(features.tokens[:, 0], features.embedding)


def test_only_what_is_asked_for(encoder) -> None:
    image = torch.rand(1, 3, 64, 64)
    everything = encoder.encode(image, logits=True)
    maps = encoder.encode(image, embedding=False)
    assert maps.embedding is maps.tokens is maps.logits is None
    assert all(torch.equal(a, b) for a, b in zip(maps.maps, everything.maps, strict=True))
    scores = encoder.encode(image, maps=False, embedding=False, logits=True)
    assert scores.maps == () and scores.embedding is None
    assert torch.equal(scores.logits, everything.logits)


def test_maps_alone_stop_before_the_last_stage(tiny) -> None:
    encoder = RAMEncoder(tiny)
    tiny.visual_encoder.layers[-1].register_forward_hook(lambda *_: pytest.fail("last stage ran"))
    for block in tiny.visual_encoder.layers[-1].blocks:
        block.register_forward_hook(lambda *_: pytest.fail("last stage ran"))
    encoder.encode(torch.rand(1, 3, 64, 64), embedding=False)


def test_gradient_reaches_the_image_and_nothing_else(encoder) -> None:
    image = torch.rand(1, 3, 64, 48, requires_grad=True)
    _sum(encoder.encode(image, logits=True)).backward()
    assert image.grad.isfinite().all()
    assert (image.grad.abs().sum(1) > 0).float().mean() > 0.9
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_gradient_agrees_with_finite_differences(tiny) -> None:
    model = tiny.double()
    image = torch.rand(1, 3, model.config.image_size, model.config.image_size, dtype=torch.float64)
    direction = torch.randn_like(image)
    direction /= direction.norm()
    leaf = image.clone().requires_grad_()
    model(leaf).square().sum().backward()
    step = 1e-4
    with torch.no_grad():
        ends = [model(image + sign * step * direction).square().sum() for sign in (1, -1)]
    assert (leaf.grad * direction).sum().item() == pytest.approx(
        float((ends[0] - ends[1]) / (2 * step)), rel=1e-4
    )


def test_checkpointing_gives_equal_gradients_with_less_memory(tiny) -> None:
    encoder = RAMEncoder(tiny)
    image = torch.rand(2, 3, 64, 64)

    def measure() -> tuple[Tensor, int]:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        leaf = image.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = _sum(encoder.encode(leaf, logits=True))
        size = sum(kept.values())
        loss.backward()
        return leaf.grad, size

    plain, plain_size = measure()
    encoder.network.checkpointing = True
    again, again_size = measure()
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-8)
    assert again_size < 0.5 * plain_size


def test_ram_encoder_normalises_and_resizes_itself(tiny) -> None:
    image = torch.rand(2, 3, 50, 120)
    size = tiny.config.image_size
    resized = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
    expected = tiny(normalise(resized, IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(RAMEncoder(tiny).encode(image, maps=False, logits=True).logits, expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "Divide"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN"),
        (torch.zeros(0, 3, 8, 8), "empty"),
    ],
)
def test_encoders_refuse_bad_images(encoder, image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.encode(image)


@torch.no_grad()
def test_lite0_matches_the_published_weights(facts, lite, probe_image) -> None:
    probe = facts("efficientnet_lite0_facts")["probe"]
    network = lite.network
    image = normalise(probe_image(224)[None], IMAGENET_MEAN, IMAGENET_STD)
    stages = list(network.stage_outputs(image))
    for i, stage in enumerate(stages):
        shape, mean, std = probe["stage_mean_std"][f"stage{i}"]
        assert list(stage.shape) == shape
        assert stage.std().item() == pytest.approx(std, rel=1e-3)
        assert stage.mean().item() == pytest.approx(mean, abs=1e-3 * std)
    # The weights are stored in float16.
    pooled = network.pool(stages[-1])
    torch.testing.assert_close(pooled[0, :16], torch.tensor(probe["pool_first16"]), rtol=0, atol=0.02)
    logits = network(image)[0]
    torch.testing.assert_close(logits[:16], torch.tensor(probe["logits_first16"]), rtol=0, atol=0.05)
    assert logits.topk(5).indices.tolist() == [index for index, _ in probe["top5"]]


@torch.no_grad()
def test_folding_the_published_layout_changes_nothing(facts) -> None:
    """A network of the published names and shapes, with batch normalisation, computed in float64."""
    state = {}
    for key, shape, _ in facts("efficientnet_lite0_facts")["keys"]:
        value = torch.randn(shape, dtype=torch.float64) * (
            1.0 if len(shape) < 2 else (2 / _fan(shape)) ** 0.5
        )
        if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            value = value.abs() + 0.5
        state[key] = value.half().double() if len(shape) > 1 else value

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1, act: bool = True) -> Tensor:
        weight = state[f"{conv}.weight"]
        kernel = weight.shape[-1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(
            x, weight, stride=stride, groups=1 if weight.shape[1] > 1 or kernel == 1 else len(weight)
        )
        statistics = [state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *statistics, eps=1e-3)
        return x.clamp(0, 6) if act else x

    image = torch.randn(1, 3, 65, 65, dtype=torch.float64)
    x = conv_norm(image, "_conv_stem", "_bn0", 2)
    number = 0
    for repeats, stride in zip((1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1), strict=True):
        for i in range(repeats):
            name, y = f"_blocks.{number}", x
            if f"{name}._expand_conv.weight" in state:
                y = conv_norm(y, f"{name}._expand_conv", f"{name}._bn0")
            y = conv_norm(y, f"{name}._depthwise_conv", f"{name}._bn1", 1 if i else stride)
            y = conv_norm(y, f"{name}._project_conv", f"{name}._bn2", act=False)
            x = x + y if i else y
            number += 1
    pooled = conv_norm(x, "_conv_head", "_bn1").mean((2, 3))
    expected = F.linear(pooled, state["_fc.weight"], state["_fc.bias"])

    network = EfficientNetLite0()
    network.load_compact(compact_tensors(state))
    torch.testing.assert_close(network(image.float()).double(), expected, rtol=1e-3, atol=1e-3)


def _fan(shape: list[int]) -> int:
    """Inputs per output of a weight."""
    return int(torch.Size(shape[1:]).numel())


def test_lite0_is_small_and_labelled(lite) -> None:
    assert (DATA / "efficientnet_lite0.safetensors").stat().st_size < 10_000_000
    model = load_efficientnet_lite0()
    assert "not RAM" in model.architecture
    assert not model.is_ram
    assert model.parameter_count == 4_631_000
    assert len(model.vocabulary) == 1000
    assert len(set(model.vocabulary.english)) == 1000


@torch.no_grad()
def test_lite0_distance_grows_with_darkness(lite) -> None:
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(data.coffee()).movedim(-1, 0)[None].float() / 255
    bright = lite.encode(photo[..., ::2, ::2]).embedding
    distances = [
        1 - F.cosine_similarity(bright, lite.encode(photo[..., ::2, ::2] * gain).embedding).item()
        for gain in (0.8, 0.4, 0.2, 0.1, 0.05)
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_data_files_are_those_described() -> None:
    described = (DATA / "README.md").read_text(encoding="utf-8")
    files = [path for path in DATA.iterdir() if path.suffix in (".txt", ".safetensors")]
    assert len(files) == 5
    for path in files:
        assert f"| `{path.name}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |" in described


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_moving_a_model(dtype: torch.dtype) -> None:
    model = load_efficientnet_lite0(dtype=dtype)
    assert (model.dtype, model.device) == (dtype, torch.device("cpu"))
    assert model.size_bytes == model.parameter_count * dtype.itemsize
    assert model.encoder.encode(torch.rand(1, 3, 64, 64)).embedding.dtype == dtype
    with pytest.raises(ValueError, match="float64"):
        model.to(dtype=torch.float64)
