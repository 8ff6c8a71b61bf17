"""Reading checkpoints as they are published, and saying what is wrong with those that are something else."""

import io
import json
import os
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semillie_core.ram import RAM, RAMConfig, RAMFileError, find_ram_files, load_ram, loading


@pytest.fixture
def load(vocabulary):
    """``load(path, model, ...)``: load a file of a tiny model."""

    def loader(path: Path, model: RAM, **options):
        return load_ram(path, config=model.config, vocabulary=vocabulary, **options)

    return loader


def _published(model: RAM) -> dict:
    """What a released training checkpoint of this model looks like."""
    state = OrderedDict(model.state_dict())
    state["visual_encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(4, 4)
    state["visual_encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(2, dtype=torch.long)
    if model.config.variant == "ram":
        state["text_decoder.bert.embeddings.word_embeddings.weight"] = torch.randn(50, 8)
        state["text_decoder.bert.embeddings.position_ids"] = torch.arange(5)[None]
        for key in [key for key in state if key.startswith("tagging_head.")]:
            state[key.replace("tagging_head.", "tag_encoder.")] = state[key]
    moments = {i: {"step": 3, "exp_avg": torch.randn(9)} for i in range(3)}
    return {
        "model": state,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-5}]},
        "config": {"train_file": ["a.json"], "image_size": 224},
        "epoch": 4,
    }


def _assert_same(loaded, model: RAM, dtype: torch.dtype = torch.float32) -> None:
    state = loaded.encoder.network.state_dict()
    assert set(state) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value.to(dtype)), key


@pytest.mark.parametrize("legacy", [False, True])
def test_published_layout(tmp_path, tiny, load, legacy: bool) -> None:
    path = tmp_path / "ram.pth"
    torch.save(_published(tiny), path, _use_new_zipfile_serialization=not legacy)
    loaded = load(path, tiny)
    _assert_same(loaded, tiny)
    assert loaded.architecture == tiny.config.display_name
    assert loaded.is_ram
    assert not any(parameter.requires_grad for parameter in loaded.encoder.parameters())
    assert not loaded.encoder.training


def _prefixed(state: dict) -> dict:
    return {f"module.{key}": value for key, value in state.items()}


def _old_decoder_name(state: dict) -> dict:
    return {key.replace("tagging_head", "vision_multi"): value for key, value in state.items()}


@pytest.mark.parametrize(
    "rename", [_prefixed, _old_decoder_name, dict], ids=["module.", "vision_multi", "bare"]
)
def test_other_names_of_the_same_tensors(tmp_path, tiny, load, rename) -> None:
    path = tmp_path / "ram.pth"
    torch.save(rename(_published(tiny)["model"]), path)
    _assert_same(load(path, tiny), tiny)


def test_tied_decoder_of_ram(tmp_path, tiny_configs, fill, load) -> None:
    model = fill(RAM(tiny_configs["ram"]))
    state = _published(model)["model"]
    path = tmp_path / "ram.pth"
    torch.save({key: value for key, value in state.items() if not key.startswith("tagging_head.")}, path)
    _assert_same(load(path, model), model)


def test_ram_plus_without_reweight_scale(tmp_path, tiny_configs, fill, load) -> None:
    model = fill(RAM(tiny_configs["ram_plus"]))
    state = _published(model)["model"]
    del state["reweight_scale"]
    path = tmp_path / "ram_plus.pth"
    torch.save(state, path)
    network = load(path, model).encoder.network
    assert float(network.reweight_scale) == pytest.approx(2.659260036932778)


def test_compact_copy(tmp_path, tiny, load) -> None:
    path = tmp_path / "ram.pth"
    torch.save(_published(tiny), path)
    _assert_same(load(path, tiny), tiny)
    _assert_same(load(path, tiny, dtype=torch.float16), tiny, torch.float16)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "ram.fp16.safetensors",
        "ram.fp32.safetensors",
        "ram.pth",
    ]
    half = load_file(tmp_path / "ram.fp16.safetensors")
    assert set(half) == set(tiny.state_dict())
    assert all(value.dtype == torch.float16 for value in half.values())

    written = (tmp_path / "ram.fp16.safetensors").stat().st_mtime_ns
    bfloat = load(path, tiny, dtype=torch.bfloat16)
    assert bfloat.dtype == torch.bfloat16
    assert (tmp_path / "ram.fp16.safetensors").stat().st_mtime_ns == written

    path.unlink()
    _assert_same(load(tmp_path / "ram.fp32.safetensors", tiny), tiny)


def test_compact_copy_follows_its_original(tmp_path, tiny, load) -> None:
    path = tmp_path / "ram.pth"
    torch.save(_published(tiny), path)
    load(path, tiny)
    tiny.fc.bias.data += 1
    torch.save(_published(tiny), path)
    os.utime(path, ns=(1, 1))
    _assert_same(load(path, tiny), tiny)

    copy = tmp_path / "ram.fp32.safetensors"
    copy.write_bytes(copy.read_bytes()[:-100])
    _assert_same(load(path, tiny), tiny)


def test_no_copy_when_told_so_or_impossible(tmp_path, tiny, load, monkeypatch) -> None:
    path = tmp_path / "ram.pth"
    torch.save(_published(tiny), path)
    _assert_same(load(path, tiny, cache=False), tiny)
    assert [p.name for p in tmp_path.iterdir()] == ["ram.pth"]

    original = Path.open

    def read_only(self, mode="r", *args, **kwargs):
        if set("wx") & set(mode):
            raise PermissionError("read-only folder")
        return original(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.warns(UserWarning, match="read-only folder"):
        _assert_same(load(path, tiny), tiny)


def test_a_failed_copy_leaves_nothing_behind(tmp_path, tiny, load) -> None:
    path = tmp_path / "ram.pth"
    published = _published(tiny)
    published["model"]["label_embed"] = published["model"]["label_embed"].clone()
    published["model"]["label_embed"][0, 0] = float("nan")
    torch.save(published, path)
    with pytest.raises(RAMFileError, match="label_embed holds values that are not finite"):
        load(path, tiny)
    assert [p.name for p in tmp_path.iterdir()] == ["ram.pth"]


@pytest.mark.parametrize("copy_first", [False, True])
def test_loading_can_be_stopped(tmp_path, tiny, load, copy_first: bool) -> None:
    class CancelError(Exception):
        pass

    calls = 0

    def cancel() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise CancelError

    path = tmp_path / "ram.pth"
    torch.save(_published(tiny), path)
    if copy_first:
        load(path, tiny)
    there = {file.name for file in tmp_path.iterdir()}
    with pytest.raises(CancelError):
        load(path, tiny, check=cancel)
    assert {file.name for file in tmp_path.iterdir()} == there
    _assert_same(load(path, tiny, check=lambda: None), tiny)


def _bytes_of(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


_FOREIGN = {
    "web page": (b"<!DOCTYPE html><html>login</html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "Git LFS pointer"),
    "empty": (b"", "empty"),
    "text": (b"hello, I am not a model", "neither a PyTorch checkpoint nor a safetensors file"),
    "not tensors": (_bytes_of({"epoch": 3}), "no named tensors"),
    "tag2text": (_bytes_of({"model": {"label_embed.weight": torch.zeros(3429, 8)}}), "Tag2Text"),
    "swin": (
        _bytes_of(
            {
                "model": {
                    "patch_embed.proj.weight": torch.ones(2),
                    "layers.0.blocks.0.attn.qkv.weight": torch.ones(2),
                }
            }
        ),
        "bare Swin Transformer",
    ),
    "blip": (_bytes_of({"visual_encoder.cls_token": torch.ones(2)}), "no tag embeddings"),
    "diffusion": (_bytes_of({"model.diffusion_model.out.weight": torch.ones(2)}), "image generation model"),
    "other": (_bytes_of({"conv.weight": torch.ones(2)}), "its tensors are called conv.weight"),
    "other tags": (
        _bytes_of({"label_embed": torch.zeros(100, 512)}),
        "has 100 text embeddings; RAM has 4585",
    ),
}


@pytest.mark.parametrize("kind", _FOREIGN)
def test_foreign_files_are_named(tmp_path, kind: str) -> None:
    content, message = _FOREIGN[kind]
    path = tmp_path / "ram_swin_large_14m.pth"
    path.write_bytes(content)
    with pytest.raises(RAMFileError, match=message) as caught:
        load_ram(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("first", [b"\x80", b"PK"])
def test_a_header_as_long_as_other_formats_begin_is_none(tmp_path, tiny, load, first: bytes) -> None:
    path = tmp_path / "ram.safetensors"
    save_file(tiny.state_dict(), path, {"note": ""})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    spare = (int.from_bytes(first, "little") - length) % 256 ** len(first)
    save_file(tiny.state_dict(), path, {"note": "x" * spare})
    assert path.read_bytes().startswith(first)
    # PyTorch's own reader knows safetensors, too, from some version on.
    assert isinstance(loading._open(path), loading._SafetensorsSource)
    _assert_same(load(path, tiny), tiny)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_named(tmp_path, tiny, load, kind: str) -> None:
    path = tmp_path / ("ram.safetensors" if kind == "safetensors" else "ram.pth")
    if kind == "safetensors":
        save_file(tiny.state_dict(), path)
    else:
        torch.save(_published(tiny), path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(RAMFileError, match="truncated"):
        load(path, tiny)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(RAMFileError, match="There is no file"):
        load_ram(tmp_path / "ram.pth")


def test_the_wrong_variant_is_named(tmp_path) -> None:
    path = tmp_path / "ram_swin_large_14m.pth"
    torch.save({"model": {"label_embed": torch.zeros(1).expand(233835, 512)}}, path)
    with pytest.raises(RAMFileError, match=r"is RAM\+\+, but RAM was asked for"):
        load_ram(path, expect="ram")


def test_code_in_a_checkpoint_is_refused(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    path = tmp_path / "ram.pth"
    torch.save({"model": {"label_embed": torch.zeros(1)}, "config": Evil()}, path)
    with pytest.raises(RAMFileError, match="could run code"):
        load_ram(path)


def test_tensors_that_do_not_fit_are_listed(tmp_path, tiny, load) -> None:
    state = dict(tiny.state_dict())
    del state["fc.bias"]
    state["visual_encoder.layers.0.blocks.7.norm1.weight"] = torch.ones(8)
    table = "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table"
    state[table] = torch.zeros(529, 1)
    path = tmp_path / "ram.pth"
    torch.save(state, path)
    with pytest.raises(RAMFileError) as caught:
        load(path, tiny)
    message = str(caught.value)
    assert "Missing (1): fc.bias" in message
    assert "Unexpected (1): visual_encoder.layers.0.blocks.7.norm1.weight" in message
    assert f"{table} (529, 1) instead of" in message


def test_vocabulary_and_dtype_must_fit(tmp_path, tiny) -> None:
    path = tmp_path / "ram.pth"
    torch.save(_published(tiny), path)
    with pytest.raises(ValueError, match="names 4585 tags, the model has 6"):
        load_ram(path, config=tiny.config)
    with pytest.raises(ValueError, match=r"float64"):
        load_ram(path, config=tiny.config, dtype=torch.float64)


def test_find_ram_files(tmp_path) -> None:
    first, second = tmp_path / "rams", tmp_path / "more"
    for path in (
        first / "ram_swin_large_14m.pth",
        first / "ram_swin_large_14m.fp16.safetensors",
        first / "tag2text_swin_14m.pth",
        first / "readme.txt",
        first / ".download" / "ram" / "ram_plus_swin_large_14m.pth",
        second / "ram_swin_large_14m.pth",
        second / "sub" / "mine.fp16.safetensors",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_ram_files([first, second, tmp_path / "absent"]) == {
        "ram_swin_large_14m.pth": first / "ram_swin_large_14m.pth",
        "sub/mine.fp16.safetensors": second / "sub" / "mine.fp16.safetensors",
    }


def test_find_ram_files_behind_links(tmp_path) -> None:
    folder, elsewhere = tmp_path / "rams", tmp_path / "disk"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "ram.pth").touch()
    (elsewhere / "alone.pth").touch()
    folder.mkdir()
    try:
        (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
        (folder / "file.pth").symlink_to(elsewhere / "alone.pth")
        (folder / "gone.pth").symlink_to(tmp_path / "absent")
        (elsewhere / "back").symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("this account cannot make links")
    assert list(find_ram_files([folder])) == ["file.pth", "linked/alone.pth", "linked/deep/ram.pth"]


_MEMORY_SCRIPT = """
    import json, resource, sys, torch
    from semillie_core.ram import RAMConfig, Vocabulary, load_ram

    def resident():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

    config = RAMConfig(**json.loads(sys.argv[2]))
    vocabulary = Vocabulary(("tag",) * config.num_tags, (0.5,) * config.num_tags)
    dtype = getattr(torch, sys.argv[3])
    torch.aminmax(torch.zeros(10, dtype=dtype))
    before = resident()
    model = load_ram(sys.argv[1], config=config, vocabulary=vocabulary, dtype=dtype)
    print(json.dumps({"peak": resident() - before, "needed": model.size_bytes}))
"""


_SIZES = {
    "image_size": 64,
    "window_size": 2,
    "embed_dim": 256,
    "depths": [2, 2, 6],
    "num_heads": [4, 8, 16],
    "num_tags": 9_000,
    "decoder_mlp_dim": 768,
}


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory) -> Path:
    """A training checkpoint of about 0.8 GB, half of it needed."""
    with torch.device("meta"):
        state = RAM(RAMConfig(**_SIZES)).state_dict()
    state = {key: torch.ones(value.shape) for key, value in state.items()}
    quarter = torch.ones(sum(value.numel() for value in state.values()) // 4)
    path = tmp_path_factory.mktemp("large") / "ram.pth"
    content = {"model": {**state, "text_decoder.a": quarter, "text_decoder.b": quarter.clone()}}
    torch.save({**content, "optimizer": {"state": {0: {"exp_avg": quarter.clone()}}}}, path)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from Linux's /proc")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loading_peaks_below_1_3_times_the_needed_tensors(large_checkpoint, repository, dtype: str) -> None:
    """The first load, which writes the compact copy, and a later one, which reads it."""
    for attempt in ("writing the copy", "from the copy"):
        output = subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(_MEMORY_SCRIPT),
                large_checkpoint,
                json.dumps(_SIZES),
                dtype,
            ],
            env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        measured = json.loads(output)
        assert measured["peak"] < 1.3 * measured["needed"], attempt
        copy = large_checkpoint.with_suffix(
            ".fp32.safetensors" if dtype == "float32" else ".fp16.safetensors"
        )
        assert copy.stat().st_size < 1.01 * measured["needed"]
