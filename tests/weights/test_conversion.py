"""Converting every kind of checkpoint into this project's."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import safetensors
import torch

from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.weights import CheckpointError, convert_checkpoint, load_model, save_model
from training_scripts import convert_checkpoint as script

SMALL = SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SemiLLIE(SMALL)


def prefixed(network, prefix):
    return {f"{prefix}{key}": value for key, value in network.state_dict().items()}


def metadata_of(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def same(path, network):
    loaded = load_model(path).network.state_dict()
    return all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_released_checkpoint(tmp_path, network, prefix, capsys):
    source, target = tmp_path / "old.pth", tmp_path / "folder" / "new.safetensors"
    content = {
        "arch": "X",
        "epoch": 7,
        "state_dict": prefixed(network, prefix),
        "optimizer_dict": {"state": {}},
    }
    torch.save(content, source)
    assert script.main([str(source), str(target), "--metadata", "licence=MIT=ish"]) == 0
    assert same(target, network)
    metadata = metadata_of(target)
    assert metadata["epoch"] == "7" and metadata["licence"] == "MIT=ish" and metadata["source"] == "old.pth"
    assert metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    shown = capsys.readouterr().out
    assert "multi-scale" in shown and "arch, epoch, optimizer_dict" in shown
    assert ("prefixes" in shown) == bool(prefix)


def test_bare_state_dictionary(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    done = convert_checkpoint(tmp_path / "bare.pth", tmp_path / "new.safetensors")
    assert same(tmp_path / "new.safetensors", network) and done.left_out == () and not done.renamed


def test_a_training_state_tells_what_shapes_do_not(tmp_path):
    config = dataclasses.replace(SMALL, downscale=4, thumbnail=32, thumbnail_depth=1, drop_path_rate=0.25)
    state = {
        "config": json.dumps({"network": config.to_dict(), "seed": 3}),
        "teacher": SemiLLIE(config).state_dict(),
    }
    torch.save(state, tmp_path / "state.pt")
    convert_checkpoint(tmp_path / "state.pt", tmp_path / "teacher.safetensors")
    assert load_model(tmp_path / "teacher.safetensors").config == config


def test_training_state(tmp_path, network):
    student = SemiLLIE(SMALL)
    content = {
        "config_sha256": "ab",
        "student": student.state_dict(),
        "teacher": network.state_dict(),
        "step": 9,
    }
    torch.save({**content, "optimizer": {}, "rng": [torch.get_rng_state()]}, tmp_path / "state.pt")
    done = convert_checkpoint(tmp_path / "state.pt", tmp_path / "teacher.safetensors")
    assert same(tmp_path / "teacher.safetensors", network)
    assert set(done.left_out) == {"config_sha256", "student", "step", "optimizer", "rng"}
    assert done.metadata["step"] == "9" and done.metadata["training_config_sha256"] == "ab"
    convert_checkpoint(tmp_path / "state.pt", tmp_path / "student.safetensors", part="student")
    assert same(tmp_path / "student.safetensors", student)


def test_a_part_that_is_not_there(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    save_model(tmp_path / "ours.safetensors", network)
    for name, message in (
        ("bare.pth", "no 'student', but a bare network"),
        ("ours.safetensors", "one network only"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / name, part="student")


def test_our_file_in_half_precision(tmp_path, network):
    source, target = tmp_path / "ours.safetensors", tmp_path / "half.safetensors"
    save_model(source, network, {"data": "LOL", "licence": "MIT"})
    assert script.main([str(source), str(target), "--dtype", "float16", "--metadata", "licence=BSD"]) == 0
    metadata = metadata_of(target)
    assert metadata["data"] == "LOL" and metadata["licence"] == "BSD" and "source" not in metadata
    assert target.stat().st_size < 0.6 * source.stat().st_size
    loaded, half = load_model(target).network.state_dict(), SemiLLIE(SMALL)
    half.load_state_dict(network.state_dict())
    assert all(torch.equal(loaded[key], value.float()) for key, value in half.half().state_dict().items())


def test_values_beyond_half_precision_are_refused(tmp_path):
    network = SemiLLIE(SMALL)
    with torch.no_grad():
        network.conv_last.bias[0] = 1e5
    save_model(tmp_path / "ours.safetensors", network)
    with pytest.raises(CheckpointError, match=r"conv_last\.bias is not finite"):
        convert_checkpoint(tmp_path / "ours.safetensors", tmp_path / "half.safetensors", dtype=torch.float16)
    assert not (tmp_path / "half.safetensors").exists()


def test_existing_files_stay(tmp_path, network, capsys):
    save_model(tmp_path / "ours.safetensors", network)
    target = tmp_path / "new.safetensors"
    target.write_bytes(b"mine")
    arguments = [str(tmp_path / "ours.safetensors"), str(target)]
    assert script.main(arguments) == 1
    assert "--force" in capsys.readouterr().err and target.read_bytes() == b"mine"
    assert script.main([*arguments, "--force"]) == 0
    assert same(target, network)
    assert script.main([arguments[0], str(tmp_path / "new.pth")]) == 1
    assert ".safetensors" in capsys.readouterr().err


def test_code_in_a_file_does_not_run(tmp_path, capsys):
    class Bad:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Bad()}, tmp_path / "bad.pth")
    assert script.main([str(tmp_path / "bad.pth"), str(tmp_path / "new.safetensors")]) == 1
    shown = capsys.readouterr()
    assert "can run code" in shown.err and "ran\n" not in shown.out
