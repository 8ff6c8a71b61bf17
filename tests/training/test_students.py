"""What can be trained: given modules, spandrel's architectures, checkpoints to start from."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest
import safetensors.torch
import torch

from semillie_core.inference import NETWORK_ALONE, enhance
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.training import Phase, TrainingError, train
from semillie_core.training.students import (
    View,
    build_student,
    enhance_photo,
    enhance_view,
    uses_all_weights,
)
from semillie_core.weights import save_model

replace = dataclasses.replace


class Halves(torch.nn.Module):
    """A network like those with one downsampling: it works on even edges from 4 pixels on."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(3, 12, 2, 2)
        self.norm = torch.nn.BatchNorm2d(12)

    def forward(self, x):
        assert min(x.shape[2:]) >= 4
        assert not x.shape[2] % 2
        assert not x.shape[3] % 2
        return torch.nn.functional.pixel_shuffle(self.norm(self.down(x)), 2)


@pytest.fixture
def spandrel(monkeypatch):
    """A stand-in for the package, with the parts that are used; change ``spandrel.found`` to change the checkpoint."""
    package = types.ModuleType("spandrel")

    @dataclasses.dataclass
    class ImageModelDescriptor:
        model: torch.nn.Module
        scale: int = 1
        input_channels: int = 3
        output_channels: int = 3
        size_requirements: object = dataclasses.field(
            default_factory=lambda: types.SimpleNamespace(minimum=4, multiple_of=2, square=False)
        )
        architecture: object = dataclasses.field(default_factory=lambda: types.SimpleNamespace(name="Halves"))

    class ModelLoader:
        def load_from_file(self, path):
            return package.found

    package.ImageModelDescriptor, package.ModelLoader = ImageModelDescriptor, ModelLoader
    package.found = ImageModelDescriptor(Halves().eval().requires_grad_(False))
    monkeypatch.setitem(sys.modules, "spandrel", package)
    return package


@pytest.fixture
def short(config):
    """A crop of odd edge, so that sizes must be met by padding; validation photos are whole."""
    return replace(config, phases=(Phase(3, 2, 31, 2),), loss=replace(config.loss, perceptual=0.0))


def test_an_architecture_of_spandrel_is_trained_and_exported_under_its_own_names(short, spandrel):
    initial = {name: value.clone() for name, value in spandrel.found.model.state_dict().items()}
    result = train(replace(short, spandrel="halves.pth"))
    exported = safetensors.torch.load_file(result.best)
    assert exported.keys() == initial.keys()
    assert not torch.equal(exported["down.weight"], initial["down.weight"])
    Halves().load_state_dict(exported)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale": 2}, "no 1x image restoration network"),
        ({"input_channels": 1}, "RGB"),
        ({"size_requirements": types.SimpleNamespace(minimum=0, multiple_of=1, square=True)}, "square"),
    ],
)
def test_other_architectures_of_spandrel_are_refused(short, spandrel, change, says):
    for name, value in change.items():
        setattr(spandrel.found, name, value)
    with pytest.raises(TrainingError, match=says):
        build_student(replace(short, spandrel="other.pth"))


def test_without_spandrel_the_remedy_is_named(short, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(TrainingError, match="pip install spandrel"):
        build_student(replace(short, spandrel="other.pth"))


def test_padding_is_cut_off_again():
    network = Halves().eval()
    network.input_sizes = (4, 2)
    image = torch.rand(1, 3, 6, 8)
    odd = View(image[:, :, :5, :7], image, torch.zeros(1, 4))
    whole = torch.nn.functional.pad(odd.image, (0, 1, 0, 1), mode="replicate")
    assert torch.equal(enhance_view(network, odd).image, network(whole)[:, :, :5, :7])
    assert enhance_view(network, View(image[:, :, :1, :3], image, odd.region)).image.shape == (1, 3, 1, 3)


@pytest.mark.parametrize("size", [(60, 80), (1100, 1000)])
def test_large_photos_are_enhanced_in_the_tiles_of_inference(short, size, monkeypatch):
    network = SemiLLIE(replace(short.network, downscale=8)).eval()
    photo = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = enhance(network, photo, tile=1024, controls=NETWORK_ALONE).image
        torch.testing.assert_close(enhance_photo(network, photo).clamp(0, 1), expected, atol=1e-5, rtol=0)
        whole = View(photo, photo, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
        assert torch.equal(enhance_photo(network, photo), enhance_view(network, whole).image) == (
            size[0] < 1000
        )
    largest = []
    halves = Halves()
    halves.input_sizes = (4, 2)
    halves.register_forward_pre_hook(lambda module, inputs: largest.append(max(inputs[0].shape)))
    assert enhance_photo(halves, photo).shape == photo.shape
    assert max(largest) <= 1024


def test_a_given_module_is_the_student(short, tmp_path):
    given = torch.nn.Conv2d(3, 3, 3, padding=1)
    before = given.weight.detach().clone()
    train(short, student=given)
    assert not torch.equal(given.weight, before)
    with pytest.raises(TrainingError, match="another student"):
        train(short, student=torch.nn.Conv2d(3, 3, 1))


def test_a_module_of_another_output_size_is_refused(short):
    with pytest.raises(TrainingError, match="Conv2d does not return images of its input's size"):
        train(short, student=torch.nn.Conv2d(3, 3, 3))


def test_training_starts_from_a_checkpoint_of_the_same_network(short, tmp_path):
    torch.manual_seed(9)
    network = SemiLLIE(short.network)
    save_model(tmp_path / "start.safetensors", network)
    started = build_student(replace(short, init=str(tmp_path / "start.safetensors"))).state_dict()
    assert all(torch.equal(started[name], value) for name, value in network.state_dict().items())
    dropping = replace(
        short,
        init=str(tmp_path / "start.safetensors"),
        network=replace(short.network, drop_path_rate=0.3),
    )
    assert build_student(dropping).config.drop_path_rate == 0.3
    other = replace(
        short, init=str(tmp_path / "start.safetensors"), network=replace(short.network, d_state=3)
    )
    with pytest.raises(TrainingError, match="another network"):
        build_student(other)


@pytest.mark.parametrize(
    "options",
    [{}, {"guided": True}, {"multi_scale": False}, {"thumbnail": 16, "downscale": 4}, {"thumbnail": 16}],
)
def test_every_weight_of_ours_has_a_part_in_the_output(options):
    student = SemiLLIE(SemiLLIEConfig(embed_dim=32, depths=(2,), d_state=2, drop_path_rate=0.9, **options))
    assert uses_all_weights(student) and not uses_all_weights(Halves())
    image = torch.rand(1, 3, 16, 16)
    view = View(image, image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    enhance_view(student.train(), view).image.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in student.parameters())
