"""The network against the official code's outputs and key lists, and its own properties."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semillie_core.network import BASE, COMPACT, GUIDED, PAPER, SINGLE_SCALE, SemiLLIE, SemiLLIEConfig
from semillie_core.network.blocks import DropPath
from semillie_core.network.thumbnail import brighten

SMALL = SemiLLIEConfig(embed_dim=32, depths=(1, 1), d_state=4, expand=1.0)
SMALL_COMPACT = dataclasses.replace(SMALL, downscale=4, thumbnail=32, thumbnail_depth=1)
VARIANTS = {
    "multi-scale": SMALL,
    "guided": dataclasses.replace(SMALL, guided=True),
    "single-scale": dataclasses.replace(SMALL, multi_scale=False),
    "compact": SMALL_COMPACT,
    "base": dataclasses.replace(SMALL, thumbnail=32, thumbnail_depth=1),
}


def randomised(config: SemiLLIEConfig) -> SemiLLIE:
    """A network in which every weight matters (some start at zero)."""
    torch.manual_seed(1)
    network = SemiLLIE(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("get_gradient") and not name.endswith("A_logs"):
                parameter.add_(0.05 * torch.randn_like(parameter))
            if name.endswith("attention.1.bias"):
                parameter.fill_(1.0)  # no dead rectifier in a gate of one or two units
    return network


@pytest.mark.parametrize(
    "name",
    ["semillie_parity_a", "semillie_parity_b", "semillie_parity_default", "semillie_guided_parity",
     "semillie_singlescale_parity"],
)  # fmt: skip
def test_matches_the_official_code(parity, name):
    metadata, tensors = parity(name)
    options = dict(metadata["constructor_kwargs"])
    if "mlp_ratio" in options:
        options["expand"] = options.pop("mlp_ratio")
    network = SemiLLIE(
        SemiLLIEConfig(**options, guided="guided" in name, multi_scale="singlescale" not in name)
    ).eval()
    weights = {key.removeprefix("weights."): t for key, t in tensors.items() if key.startswith("weights.")}
    network.load_state_dict(weights)
    with torch.no_grad():
        prediction = network(tensors["io.input"])
        gradient = network.get_gradient(prediction.image)
        exact = network.double()(tensors["io.input"].double()).image
    torch.testing.assert_close(prediction.image, tensors["io.output"], atol=2e-5, rtol=0)
    torch.testing.assert_close(prediction.illumination, tensors["io.illumination_map"], atol=2e-5, rtol=0)
    torch.testing.assert_close(gradient, tensors["io.gradient"], atol=2e-5, rtol=0)
    torch.testing.assert_close(exact, tensors["io.output_f64"], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("config", "keys", "count"),
    [
        (PAPER, "semillie_official_keys", 610_548),
        (GUIDED, "semillie_guided_official_keys", 802_548),
        (SINGLE_SCALE, "semillie_singlescale_official_keys", 465_652),
    ],
)
def test_has_the_official_keys_in_order(shared_dir, config, keys, count):
    official = json.loads((shared_dir / "fixtures" / f"{keys}.json").read_text())
    network = SemiLLIE(config)
    assert [[key, list(t.shape), str(t.dtype)] for key, t in network.state_dict().items()] == official
    assert sum(p.numel() for p in network.parameters()) == count


def test_compact_costs_at_most_a_tenth_of_the_paper_network(monkeypatch):
    """For a 600 x 400 photo, counted on tensors without data."""
    from torch.utils.flop_counter import FlopCounterMode

    from semillie_core.network import blocks

    scan_macs = []

    def projections_only(x, x_proj_weight, dt_projs_weight, *_):
        """What a scan multiplies before its recurrence; three multiply-adds per state and step are added."""
        sequences = x.flatten(1, 2).unsqueeze(1).expand(-1, 4, -1, -1)
        rank = dt_projs_weight.shape[2]
        low = (sequences @ x_proj_weight.transpose(1, 2))[..., :rank]
        d_state = (x_proj_weight.shape[1] - rank) // 2
        scan_macs.append(3 * sequences.numel() * d_state)
        return (low @ dt_projs_weight.transpose(1, 2)).sum(1).view_as(x)

    monkeypatch.setattr(blocks, "selective_scan_2d", projections_only)

    def macs(config: SemiLLIEConfig) -> float:
        scan_macs.clear()
        network = SemiLLIE(config).eval().to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.rand(1, 3, 400, 600, device="meta"))
        return counter.get_total_flops() / 2 + sum(scan_macs)

    paper = macs(PAPER)
    # 43.6 GMAC at 256 x 256, by the account in the specification.
    assert paper / (400 * 600) == pytest.approx(43.6e9 / 256**2, rel=0.01)
    assert macs(COMPACT) < 0.1 * paper


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    batch=st.integers(1, 2),
    variant=st.sampled_from(sorted(VARIANTS)),
)
def test_takes_any_size(height, width, batch, variant):
    network = SemiLLIE(VARIANTS[variant]).eval()
    image = torch.rand(batch, 3, height, width)
    with torch.no_grad():
        prediction = network(image)
    assert prediction.image.shape == image.shape
    assert prediction.illumination.shape == image.shape
    assert torch.isfinite(prediction.image).all()


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_batch_equals_its_images_one_by_one(variant):
    network = randomised(VARIANTS[variant])
    images = torch.rand(3, 3, 13, 18)
    with torch.no_grad():
        together = network(images).image
        alone = torch.cat([network(image[None]).image for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_non_contiguous_input_is_the_same_picture(variant):
    network = randomised(VARIANTS[variant])
    image = torch.rand(1, 12, 19, 3).permute(0, 3, 1, 2)[:, :, ::2]
    with torch.no_grad():
        torch.testing.assert_close(network(image).image, network(image.contiguous()).image)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_float64_agrees_with_float32(variant):
    network = randomised(VARIANTS[variant])
    image = torch.rand(1, 3, 14, 17)
    with torch.no_grad():
        single = network(image).image
        double = network.double()(image.double()).image
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_autocast_stays_finite_with_the_scan_in_float32(variant, dtype, monkeypatch):
    from semillie_core.network import blocks

    seen = []
    scan = blocks.selective_scan_2d

    def spy(x, *weights, **options):
        seen.append(weights[3].dtype)
        return scan(x, *weights, **options)

    monkeypatch.setattr(blocks, "selective_scan_2d", spy)
    network = randomised(VARIANTS[variant])
    image = torch.rand(1, 3, 24, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        prediction = network(image).image
    with torch.no_grad():
        exact = network(image).image
    assert seen
    assert all(dtype == torch.float32 for dtype in seen)
    assert torch.isfinite(prediction).all()
    assert (prediction.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_parameter_gets_a_gradient(variant):
    network = randomised(VARIANTS[variant]).train()
    network(torch.rand(1, 3, 16, 16)).image.square().sum().backward()
    without = [
        n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert without == []


def test_a_crop_with_its_frame_is_lit_like_the_frame():
    network = SemiLLIE(SMALL_COMPACT).eval()
    torch.nn.init.normal_(network.estimator.local_gain.weight, std=0.3)
    frame = torch.rand(1, 3, 96, 144)
    with torch.no_grad():
        illumination = network.estimate_frame(frame)
        whole = network(frame).illumination
        region = torch.tensor([[16 / 96, 40 / 144, 48 / 96, 64 / 144]])
        crop = network(frame[:, :, 16:64, 40:104], illumination, region).illumination
    torch.testing.assert_close(crop, whole[:, :, 16:64, 40:104], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"embed_dim": 30}, "embed_dim"),
        ({"embed_dim": 16}, "embed_dim"),
        ({"depths": ()}, "depths"),
        ({"depths": (2, 0)}, "depths"),
        ({"d_state": 0}, "d_state"),
        ({"expand": 0.0}, "expand"),
        ({"expand": float("nan")}, "expand"),
        ({"expand": float("inf")}, "expand"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"downscale": 0}, "downscale"),
        ({"thumbnail": 3}, "thumbnail"),
        ({"thumbnail": 64, "thumbnail_depth": 0}, "thumbnail_depth"),
        ({"guided": True, "thumbnail": 64}, "guided"),
    ],
)
def test_impossible_configs_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        SemiLLIEConfig(**options)


@given(embed_dim=st.integers(8, 128).map(lambda quarter: 4 * quarter), expand=st.floats(0.04, 8))
def test_the_inner_width_says_what_expand_is(embed_dim, expand):
    config = SemiLLIEConfig(embed_dim=embed_dim, expand=expand)
    assert config.d_inner in (int(expand * embed_dim), int(expand * embed_dim + 1e-6))
    assert SemiLLIEConfig(embed_dim=embed_dim, expand=config.d_inner / embed_dim) == config
    assert SemiLLIEConfig.from_dict(config.to_dict()) == config


def test_every_inner_width_is_had():
    for embed_dim in range(32, 257, 4):
        for inner in range(1, 3 * embed_dim, 7):
            assert SemiLLIEConfig(embed_dim=embed_dim, expand=inner / embed_dim).d_inner == inner
    assert SemiLLIEConfig(embed_dim=100, expand=1.15).d_inner == 115


def test_config_survives_plain_values():
    assert SemiLLIEConfig.from_dict(json.loads(json.dumps(COMPACT.to_dict()))) == COMPACT
    with pytest.raises(ValueError, match="embed_dims"):
        SemiLLIEConfig.from_dict({"embed_dims": 64})


def test_the_variants_have_their_names():
    named = {config.variant for config in (PAPER, GUIDED, SINGLE_SCALE, BASE, COMPACT)}
    assert named == {"multi-scale", "guided", "single-scale", "base", "compact"}
    assert SemiLLIEConfig(downscale=2).variant == "compact"


def test_the_scan_starts_as_mambas():
    scan = SemiLLIE(SMALL).layers[0].residual_group.blocks[0].self_attention
    torch.testing.assert_close(scan.A_logs.exp(), torch.arange(1.0, 5).expand_as(scan.A_logs))
    assert (scan.Ds == 1).all()
    steps = torch.nn.functional.softplus(scan.dt_projs_bias.detach())
    assert 1e-3 * 0.99 < steps.min() < 2e-3 and 0.05 < steps.max() < 0.1 * 1.01
    # Log-uniform.
    assert steps.median() == pytest.approx(0.01, rel=0.5)


def test_compact_starts_with_the_photo_brightened():
    image = torch.rand(1, 3, 20, 24)
    image[:, :, :4] = 1.0
    with torch.no_grad():
        prediction = SemiLLIE(SMALL_COMPACT).eval()(image)
    assert prediction.image.max() <= 1
    torch.testing.assert_close(prediction.image, 1 - (1 - image) ** math.e, atol=1e-3, rtol=0)
    assert torch.equal(prediction.image, prediction.illumination)


def test_white_does_not_break_the_gradient_of_the_gain():
    log_gain = torch.ones(1, 3, 2, 2, requires_grad=True)
    brighten(torch.ones(1, 3, 2, 2), log_gain).sum().backward()
    assert log_gain.grad.isfinite().all()


def test_paths_are_dropped_by_sample_and_ever_oftener_with_depth():
    network = SemiLLIE(dataclasses.replace(SMALL, depths=(2, 3), drop_path_rate=0.4))
    paths = [module for module in network.modules() if isinstance(module, DropPath)]
    assert [path.rate for path in paths] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert SemiLLIEConfig().drop_path_rate == 0.1  # as released
    dropped = DropPath(0.25).train()(torch.ones(4000, 2, 1, 3))
    assert torch.equal(dropped, dropped[:, :1, :, :1].expand_as(dropped))
    kept = dropped[:, 0, 0, 0]
    torch.testing.assert_close(kept.unique(), torch.tensor([0, 1 / 0.75]))
    assert kept.mean() == pytest.approx(1, abs=0.05)


def test_drop_path_acts_in_training_only():
    network = randomised(dataclasses.replace(SMALL, depths=(2,), drop_path_rate=0.9))
    image = torch.rand(8, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(image).image, network(image).image)
        network.train()
        assert not torch.equal(network(image).image, network(image).image)
