"""Loading every kind of checkpoint, and refusing what is not one."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.ram import load_ram
from semillie_core.weights import (
    CheckpointError,
    DownloadError,
    bundled_models,
    download_file,
    download_model,
    load_model,
    save_model,
)

SMALL = SemiLLIEConfig(embed_dim=32, depths=(1, 2), d_state=4, expand=1.5)


def official_file(path, network, **options):
    state = OrderedDict((f"module.{key}", value) for key, value in network.state_dict().items())
    for key in options.get("drop", ()):
        del state[f"module.{key}"]
    content = {"arch": "DataParallel", "epoch": 200, "state_dict": state, "optimizer_dict": {"state": {}}}
    torch.save(content, path, _use_new_zipfile_serialization=options.get("zip", True))
    return path


@settings(max_examples=8, deadline=None)
@given(
    embed_dim=st.sampled_from([32, 36, 44, 48]),
    depths=st.lists(st.integers(1, 2), min_size=1, max_size=2),
    d_state=st.integers(1, 5),
    expand=st.floats(0.05, 2.5),
    kind=st.sampled_from(["multi-scale", "single-scale", "guided", "compact"]),
    drop_path_rate=st.sampled_from([0.0, 0.1]),
)
def test_config_is_inferred_from_the_tensors(tmp_path_factory, kind, **options):
    extra = {
        "multi-scale": {"thumbnail_depth": 3},
        "single-scale": {"multi_scale": False},
        "guided": {"guided": True},
        "compact": {"downscale": 2, "thumbnail": 48, "thumbnail_depth": 3},
    }[kind]
    config = SemiLLIEConfig(**options, **extra)
    network = SemiLLIE(config)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_model(path, network, {"licence": "test"})
    model = load_model(path)
    assert model.variant == kind
    assert model.config == config
    assert model.provenance["licence"] == "test"
    assert model.parameter_count == sum(p.numel() for p in network.parameters())
    assert not model.network.training
    for key, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[key], value)


def test_a_header_as_long_as_a_zip_begins_is_none(tmp_path):
    path = tmp_path / "net.safetensors"
    wanted = int.from_bytes(b"PK", "little")
    save_model(path, SemiLLIE(SMALL), {"note": ""})
    spare = wanted - int.from_bytes(path.read_bytes()[:8], "little")
    save_model(path, SemiLLIE(SMALL), {"note": "x" * spare})
    assert path.read_bytes().startswith(b"PK")
    assert load_model(path).config == SMALL
    assert load_model(path).provenance["note"]


@pytest.mark.parametrize("zip_format", [True, False])
def test_released_checkpoints_load(tmp_path, zip_format):
    network = SemiLLIE(SMALL)
    model = load_model(official_file(tmp_path / "model_e200.pth", network, zip=zip_format))
    assert model.provenance["epoch"] == "200"
    assert torch.equal(model.network.conv_last.weight, network.conv_last.weight)


def test_missing_gradient_kernels_are_tolerated(tmp_path):
    drop = ["get_gradient.weight_h", "get_gradient.weight_v"]
    model = load_model(official_file(tmp_path / "m.pth", SemiLLIE(SMALL), drop=drop))
    assert torch.equal(model.network.get_gradient.weight_h, SemiLLIE(SMALL).get_gradient.weight_h)


def test_bare_state_dictionaries_load(tmp_path):
    torch.save(SemiLLIE(SMALL).state_dict(), tmp_path / "bare.pth")
    assert load_model(tmp_path / "bare.pth").config.depths == (1, 2)


def test_half_precision_files_load_as_float32(tmp_path):
    save_model(tmp_path / "half.safetensors", SemiLLIE(SMALL).half())
    assert load_model(tmp_path / "half.safetensors").dtype == torch.float32


def hostile(path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(path.parent / "owned"),))

    path.write_bytes(pickle.dumps({"state_dict": Payload()}, protocol=2))
    return path


def test_hostile_files_are_refused_unrun(tmp_path):
    with pytest.raises(CheckpointError, match=r"evil\.pth.*not loaded"):
        load_model(hostile(tmp_path / "evil.pth"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("load", [load_model, load_ram])
def test_tar_archives_are_not_loaded(tmp_path, monkeypatch, load):
    """PyTorch before 2.6 unpickles what is in them without a check."""
    path = tmp_path / "evil.pth"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("\x80"))
    assert path.read_bytes()[:1] == b"\x80"
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"evil\.pth is neither a"):
        load(path)


def test_a_compressed_checkpoint_is_refused_unpacked(tmp_path, monkeypatch):
    plain, bomb = official_file(tmp_path / "plain.pth", SemiLLIE(SMALL)), tmp_path / "bomb.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, bytes(source.getinfo(name).file_size))
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match=r"bomb\.pth.*compressed"):
        load_model(bomb)


def broken(kind, folder):
    network = SemiLLIE(SMALL)
    path = folder / f"{kind}.safetensors"
    if kind == "missing":
        return path
    save_model(path, network)
    content = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "truncated-header":
        path.write_bytes(content[:100])
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    elif kind == "foreign":
        safetensors.torch.save_file({"model.diffusion_model.input_blocks.0.weight": torch.zeros(3)}, path)
    elif kind == "incomplete":
        state = network.state_dict()
        del state["layers.1.residual_group.blocks.1.ln_2.bias"]
        safetensors.torch.save_file(state, path)
    elif kind == "unknown-tensor":
        safetensors.torch.save_file({**network.state_dict(), "extra": torch.zeros(1)}, path)
    elif kind == "wrong-shape":
        safetensors.torch.save_file({**network.state_dict(), "norm.weight": torch.zeros(7)}, path)
    elif kind == "truncated-pth":
        path = official_file(folder / "x.pth", network)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "no-state":
        path = folder / "y.pth"
        torch.save({"epoch": 3}, path)
    elif kind == "folder":
        return folder
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no model or file"),
        ("empty", "empty or truncated"),
        ("truncated", "truncated or damaged"),
        ("truncated-header", "truncated or damaged"),
        ("text", "neither"),
        ("foreign", "another network"),
        ("incomplete", r"ln_2\.bias"),
        ("unknown-tensor", "extra"),
        ("wrong-shape", r"norm\.weight"),
        ("truncated-pth", "damaged"),
        ("no-state", "no state dictionary"),
        ("folder", "is a folder"),
    ],
)
def test_unusable_files_give_one_readable_error(tmp_path, kind, says):
    path = broken(kind, tmp_path)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_names_of_tensors_may_be_anything(tmp_path):
    path = tmp_path / "numbers.pth"
    torch.save({0: torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"numbers\.pth holds no state dictionary"):
        load_model(path)


@pytest.mark.parametrize("error", [IndexError("pop from empty list"), AssertionError(), AttributeError("x")])
def test_a_broken_pickle_may_fail_in_any_way(tmp_path, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    path = official_file(tmp_path / "broken.pth", SemiLLIE(SMALL))
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointError, match=r"broken\.pth is truncated or damaged"):
        load_model(path)


def test_a_number_in_a_file_costs_no_time(tmp_path):
    path = tmp_path / "large.safetensors"
    state = dict(SemiLLIE(SMALL).state_dict())
    state["layers.999999999999.residual_group.blocks.0.scale"] = torch.zeros(1)
    safetensors.torch.save_file(state, path)
    with pytest.raises(CheckpointError, match=r"large\.safetensors"):
        load_model(path)


@pytest.mark.parametrize(
    ("width", "options"), [(0, {}), (2**20, {}), (None, {"thumbnail": 64, "thumbnail_depth": 10**9})]
)
def test_a_file_that_describes_a_huge_network_costs_no_memory(tmp_path, monkeypatch, width, options):
    path, network = tmp_path / "huge.safetensors", SemiLLIE(SMALL)
    state = dict(network.state_dict())
    if width is not None:
        state["patch_embed.norm.weight"] = torch.zeros(width)
    config = json.dumps({**SMALL.to_dict(), **options})
    safetensors.torch.save_file(state, path, {"format": "semi-llie/1", "config": config})
    if width is None:
        assert load_model(path).config.thumbnail == 0
    else:
        with pytest.raises(CheckpointError, match=r"huge\.safetensors"):
            load_model(path)


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_model(path, SemiLLIE(SMALL))
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(path, SemiLLIE(SMALL))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_bundled_models_load_and_say_where_they_come_from():
    models = bundled_models()
    assert next(iter(models)) == "semillie-compact"
    for name, path in models.items():
        assert path.stat().st_size <= 8 * 2**20
        model = load_model(name)
        assert model.name == name
        assert model.provenance["format"].startswith("semi-llie/")
        for key in ("data", "licence", "training_config_sha256"):
            assert model.provenance[key], key
        assert (path.parent / f"{name}.md").is_file(), "model card"


def test_descriptor_moves_and_refuses_unsupported_dtypes(tmp_path):
    save_model(tmp_path / "net.safetensors", SemiLLIE(SMALL))
    model = load_model(tmp_path / "net.safetensors")
    assert model.to(dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="int8"):
        model.to(dtype=torch.int8)


SHA = "9e9ff8d1c4e0ebd7ff2f2d9a0e2a9d8e1c0b3a5f8c2a6f8d8a0a0e4c4d0f6b7a"


def test_a_file_that_is_there_is_verified_and_never_removed(tmp_path):
    """Fetching itself is tested against a stand-in for the Hub, with the RAM checkpoints."""
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"mine")
    right = hashlib.sha256(b"mine").hexdigest()
    assert download_file("us/repo", "w.safetensors", tmp_path, sha256=right) == file
    with pytest.raises(DownloadError, match="Move it away"):
        download_file("us/repo", "w.safetensors", tmp_path, sha256=SHA)
    assert file.read_bytes() == b"mine"


def test_offline_says_where_to_put_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError) as caught:
        download_file("us/repo", "w.safetensors", tmp_path / "models", sha256=SHA)
    message = str(caught.value)
    assert str((tmp_path / "models").resolve()) in message
    assert SHA in message


def test_unknown_published_names_are_refused(tmp_path):
    with pytest.raises(DownloadError, match="semillie-huge"):
        download_model("semillie-huge", tmp_path)
