"""RAM and RAM++ against the official code (fixtures), against a plain implementation, and against float64."""

import pytest
import torch

from semillie_core.ram import RAM, RAM_PLUS_SWIN_L, RAM_SWIN_L, RAMConfig


def _recorded(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    outputs: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out))
    return outputs


@torch.no_grad()
def test_every_block_matches_the_official_code(parity, config_of) -> None:
    facts, tensors = parity("ram_parity_a")
    model = RAM(config_of(facts["config"]))
    weights = {k.removeprefix("weight."): v for k, v in tensors.items() if k.startswith("weight.")}
    model.load_state_dict(weights)
    outputs = _recorded(model)
    logits = model(tensors["in.image"])

    compared = 0
    for key, expected in tensors.items():
        if key.startswith("feat."):
            name = key.removeprefix("feat.")
            name = name if name == "visual_encoder" else f"visual_encoder.{name}"
        elif key == "out.image_embeds":
            name = "image_proj"
        elif key.startswith("out.tagging_head.layer."):
            name = key.removeprefix("out.").replace("tagging_head.", "tagging_head.encoder.")
        else:
            continue
        torch.testing.assert_close(
            outputs[name], expected, rtol=1e-4, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}"
        )
        compared += 1
    assert compared == 19
    torch.testing.assert_close(torch.relu(outputs["wordvec_proj"]), torch.relu(tensors["out.wordvec_proj"]))
    torch.testing.assert_close(logits, tensors["out.logits"], rtol=0, atol=5e-5)
    torch.testing.assert_close(logits.sigmoid(), tensors["out.prob"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "name"), [(RAM_SWIN_L, "ram_official_keys"), (RAM_PLUS_SWIN_L, "ram_plus_official_keys")]
)
def test_full_size_models_have_the_official_keys_and_shapes(facts, config: RAMConfig, name: str) -> None:
    official = facts(name)
    shapes = {key: tuple(shape) for key, shape, _ in official["keys"]}
    with torch.device("meta"):
        state = RAM(config).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        key: shapes[key] for key in official["needed_for_tagging"]
    }
    assert sum(value.numel() for value in state.values()) == official["needed_params"]


@torch.no_grad()
def test_full_size_ram_plus_matches_the_official_code(facts, fill, probe_image) -> None:
    from semillie_core.ram.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise

    official = facts("ram_plus_fullsize_probe")
    with torch.device("meta"):
        model = RAM(RAM_PLUS_SWIN_L)
    model = model.to_empty(device="cpu")
    model.reweight_scale.fill_(2.659260036932778)
    fill(model)
    seen: dict[str, torch.Tensor] = {}
    wanted = {"patch_embed", "norm"} | {f"layers.{i}.blocks.{j}" for i in range(4) for j in (0, 1, 17)}
    for name, module in model.visual_encoder.named_modules():
        if name in wanted:
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out[:, :, :]))
    logits = model(normalise(probe_image(384)[None], IMAGENET_MEAN, IMAGENET_STD))[0]

    for name, expected in official["stats"].items():
        if name not in seen:
            continue
        value = seen[name]
        assert list(value.shape) == expected["shape"]
        flat = value.flatten()
        assert flat.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
        assert flat.std().item() == pytest.approx(expected["std"], rel=1e-4)
        torch.testing.assert_close(flat[:8], torch.tensor(expected["first8"]), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(flat[-8:], torch.tensor(expected["last8"]), rtol=1e-3, atol=1e-3)
    assert len(set(seen) & set(official["stats"])) >= 9
    torch.testing.assert_close(logits[:64], torch.tensor(official["logits_first64"]), rtol=0, atol=5e-5)
    top = logits.sigmoid().topk(20)
    assert top.indices.tolist() == [index for index, _ in official["top20"]]
    torch.testing.assert_close(top.values, torch.tensor([p for _, p in official["top20"]]), rtol=0, atol=2e-5)


@torch.no_grad()
def test_matches_the_plain_implementation_in_float64(tiny, eager) -> None:
    model = tiny.double()
    image = torch.randn(3, 3, model.config.image_size, model.config.image_size, dtype=torch.float64)
    state = model.state_dict()
    embeds = eager.image_embeds(state, model.config, image)
    torch.testing.assert_close(model.image_embeds(image), embeds, rtol=1e-9, atol=1e-9)
    expected = eager.tag_logits(state, model.config, embeds)
    torch.testing.assert_close(model(image), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(tiny) -> None:
    images = torch.randn(3, 3, tiny.config.image_size, tiny.config.image_size)
    singly = torch.cat([tiny(image[None]) for image in images])
    torch.testing.assert_close(tiny(images), singly, rtol=1e-4, atol=1e-5)


def test_reweighting_makes_no_copy_of_the_descriptions(tiny_configs, fill) -> None:
    model = fill(RAM(tiny_configs["ram_plus"]))
    config = model.config
    copy = config.num_tags * config.descriptions_per_tag * config.projection_dim
    embeds = torch.randn(2, 5, config.projection_dim, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t) or t, lambda t: t):
        model.queries(embeds)
    largest = max(tensor.numel() for tensor in sizes if tensor.data_ptr() != model.label_embed.data_ptr())
    assert largest < 2 * copy


def test_windows_created_while_inferring_can_be_trained_through_later(tiny) -> None:
    from semillie_core.ram import swin

    for cached in (swin._window_order, swin._shift_mask, swin._relative_index):
        cached.cache_clear()
    image = torch.randn(1, 3, tiny.config.image_size, tiny.config.image_size)
    with torch.inference_mode():
        tiny(image)
    tiny(image.requires_grad_()).sum().backward()
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_low_precision_stays_close(tiny, dtype: torch.dtype) -> None:
    image = torch.randn(2, 3, tiny.config.image_size, tiny.config.image_size)
    exact = tiny(image).sigmoid()
    low = tiny.to(dtype)(image.to(dtype)).float().sigmoid()
    assert (low - exact).abs().max() < (0.03 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"image_size": 380}, "image_size"),
        ({"window_size": 7}, "window"),
        ({"num_heads": (5, 12, 24, 48)}, "num_heads"),
        ({"depths": (2, 2)}, "depths"),
        ({"decoder_heads": 5}, "decoder_heads"),
        ({"descriptions_per_tag": 51}, "description"),
        ({"variant": "tag2text"}, "variant"),
    ],
)
def test_impossible_sizes_name_the_field(change: dict, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        RAMConfig(**change)


def test_a_wrong_input_size_is_named(tiny) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, \d+, \d+\)"):
        tiny(torch.zeros(1, 3, 60, 60))
