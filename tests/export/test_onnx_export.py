"""ONNX files do what the network does, at sizes the exporter never saw."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from semillie_core.export import ExportError, export_onnx, onnx_file, parity
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.network.thumbnail import make_thumbnail
from semillie_core.weights import SemiLLIEModel
from training_scripts import export_onnx as script

pytest.importorskip("onnxscript", reason="needs the extra onnx")
onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SMALL = SemiLLIEConfig(embed_dim=32, depths=(1,), d_state=3)
VARIANTS = {
    "multi-scale": SMALL,
    "single-scale": dataclasses.replace(SMALL, multi_scale=False),
    "guided": dataclasses.replace(SMALL, guided=True),
    "compact": dataclasses.replace(SMALL, downscale=4, thumbnail=24, thumbnail_depth=1),
    "base": dataclasses.replace(SMALL, thumbnail=24, thumbnail_depth=1),
}


def model(variant):
    torch.manual_seed(1)
    network = SemiLLIE(VARIANTS[variant]).eval().requires_grad_(False)
    # As initialised, the compact network's body and gains have no say in the result.
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.1)
    return SemiLLIEModel(network, variant, {"licence": "test", "file": "/secret/place"})


def run(path, image):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["enhanced"], {"image": image.numpy()})[0])


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    described = model(request.param)
    return path, described, export_onnx(described, path)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 2), (1, 25, 23), (2, 33, 90), (1, 2, 130)])
def test_any_size_and_batch(exported, shape):
    path, described, _ = exported
    image = parity.dark_image(shape)
    expected = described.network(image).image.clamp(0, 1)
    assert (run(path, image) - expected).abs().max() < 1e-5
    assert expected.std() > 1e-3


def test_report_and_contents(exported):
    path, described, report = exported
    assert report.passed and max(case.max_difference for case in report.cases) < 1e-5
    assert {case.shape for case in report.cases} == set(parity.DEFAULT_SHAPES)
    content = onnx.load(path)
    metadata = {entry.key: entry.value for entry in content.metadata_props}
    assert SemiLLIEConfig.from_dict(json.loads(metadata["config"])) == described.config
    assert metadata["licence"] == "test" and metadata["variant"] == described.variant
    dims = [d.dim_param or d.dim_value for d in content.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    for private in (b"/secret/place", b"semillie_core/", b"site-packages"):
        assert private not in path.read_bytes()


def test_values_outside_the_range_are_clamped(exported):
    path, _, _ = exported
    image = parity.dark_image((1, 20, 20)) * 6 - 0.5
    assert torch.equal(run(path, image), run(path, image.clamp(0, 1)))
    assert run(path, image).min() >= 0 and run(path, image).max() <= 1


class Thumbnail(torch.nn.Module):
    def forward(self, frame):
        return torch.ops.semillie_export.make_thumbnail(frame, 24)


@pytest.fixture(scope="module")
def thumbnail_session():
    from semillie_core.export.translation import OPSET, translations

    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        Thumbnail().eval(),
        (torch.rand(1, 2, 30, 40),),
        dynamo=True,
        dynamic_shapes=({2: free, 3: free},),
        opset_version=OPSET,
        custom_translation_table=translations(),
        verbose=False,
    )
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString())


# The last three have edges of which halves must be rounded as Python does.
@pytest.mark.parametrize(
    "size", [(24, 24), (25, 24), (7, 100), (1, 49), (3, 5), (333, 100), (55, 176), (352, 110), (95, 304)]
)
def test_thumbnail_is_the_area_average(thumbnail_session, size):
    frame = torch.rand(1, 2, *size)
    name = thumbnail_session.get_inputs()[0].name
    (thumbnail,) = thumbnail_session.run(None, {name: frame.numpy()})
    torch.testing.assert_close(torch.from_numpy(thumbnail), make_thumbnail(frame, 24))


def test_disagreement_leaves_no_file(tmp_path, monkeypatch, capsys):
    described = model("single-scale")

    def other_network(network, *arguments):
        for parameter in network.parameters():
            parameter.mul_(1.01)
        return compare(network, *arguments)

    compare = onnx_file.compare_with_onnx
    monkeypatch.setattr(onnx_file, "compare_with_onnx", other_network)
    monkeypatch.setattr(script, "load_model", lambda _: described)
    before = tmp_path / "model.onnx"
    before.write_bytes(b"kept")
    assert script.main(["x", str(before), "--size", "20x10"]) == 1
    assert "--force" in capsys.readouterr().err
    assert script.main(["x", str(before), "--size", "20x10", "--force"]) == 1
    shown = capsys.readouterr()
    assert "nothing was written" in shown.err and "20x10" in shown.err
    assert before.read_bytes() == b"kept"
    report = json.loads((tmp_path / "model.parity.json").read_text())
    assert not report["passed"] and report["cases"][0]["max_difference"] > 1e-4


def test_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnxruntime and .*pip install onnx onnxruntime onnxscript$"):
        export_onnx(model("compact"), tmp_path / "x.onnx")


def test_nan_does_not_pass():
    report = parity.ParityReport((parity.ParityCase((1, 2, 2), float("nan"), 0.0),), 1e-4, {})
    assert not report.passed and report.to_dict()["cases"][0]["max_difference"] is None


@pytest.mark.parametrize("size", ["640", "0x3", "axb", "3x-4"])
def test_sizes_are_checked(size, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["semillie-compact", str(tmp_path / "x.onnx"), f"--size={size}"])
    assert stop.value.code == 2 and "640x427" in capsys.readouterr().err
