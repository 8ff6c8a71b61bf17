"""Ways to compute a step: each learns what the plain way does; and steps that must not be taken."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil

import pytest
import torch

from semillie_core.data import TrainingData, find_images
from semillie_core.data.manifest import ManifestEntry, write_manifest
from semillie_core.data.sampling import StepData
from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.ram import load_efficientnet_lite0
from semillie_core.training import Objective, Phase, TrainingError, run_steps, train, whole_frames
from semillie_core.training.distributed import Process
from semillie_core.training.mean_teacher import make_teacher
from semillie_core.training.step import MeanTeacherStep

replace = dataclasses.replace


@pytest.fixture
def plain(config):
    """All terms from the start; a crop that SSIM windows fit in."""
    return replace(
        config,
        phases=(Phase(4, 4, 32, 4),),
        loss=replace(config.loss, colour=0.1),
        consistency=replace(config.consistency, ramp_steps=0),
        # Small, since AdamW's first steps go by the sign of the gradient, which rounding turns.
        optimizer=replace(config.optimizer, learning_rate=2e-4),
    )


@pytest.fixture
def learn(plain):
    """``learn(config) -> (records, student)`` after the same two steps from the same weights."""
    data = TrainingData(plain.data, 0, plain.network.thumbnail)
    batches = [StepData(data.paired(step, 4, 32), data.unpaired(step, 4, 32)) for step in range(2)]
    torch.manual_seed(3)
    initial = SemiLLIE(plain.network)
    torch.nn.init.normal_(initial.conv_last.weight, std=0.02)  # zero at first, which hides the body
    encoder = load_efficientnet_lite0().encoder

    def run(config):
        student = copy.deepcopy(initial)
        student.checkpoint_blocks = config.runtime.checkpoint_blocks
        records = run_steps(config, student, make_teacher(student), batches, encoder=encoder)
        return records, student

    return run


def runtime(config, **changes):
    return replace(config, runtime=replace(config.runtime, **changes))


def pairs_alone(config):
    return replace(config, phases=(Phase(4, 4, 32),), loss=replace(config.loss, perceptual=0.0))


def without_encoder(config):
    return replace(
        config,
        loss=replace(config.loss, perceptual=0.0),
        consistency=replace(config.consistency, contrastive=0.0),
    )


def largest_difference(one, other):
    weights = other.state_dict()
    return max(float((value - weights[name]).abs().max()) for name, value in one.state_dict().items())


def assert_same_losses(actual, expected, rel):
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        assert one == pytest.approx(other, rel=rel)


def test_a_batch_in_parts_is_the_batch(plain, learn):
    records, student = learn(plain)
    for parts in (2, 4):
        others, other = learn(replace(plain, optimizer=replace(plain.optimizer, accumulate=parts)))
        # AdamW's first steps go by the sign of the gradient, which rounding turns where it is nearly nothing.
        assert_same_losses(others[:1], records[:1], rel=1e-5)
        assert_same_losses(others, records, rel=1e-3)
        assert largest_difference(student, other) < plain.optimizer.learning_rate


def test_recomputed_blocks_change_nothing(plain, learn):
    records, student = learn(plain)
    calls = []
    original = torch.utils.checkpoint.checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "semillie_core.network.semi_llie.checkpoint",
            lambda *inputs, **options: calls.append(1) or original(*inputs, **options),
        )
        others, other = learn(runtime(plain, checkpoint_blocks=True))
    # Once per group, for pairs and for unpaired photos, in two steps.
    assert len(calls) == 2 * 2 * len(plain.network.depths)
    assert_same_losses(others, records, rel=1e-6)
    assert largest_difference(student, other) < 1e-6


def test_bf16_keeps_losses_and_weights_in_full_precision(plain, learn):
    records, _ = learn(plain)
    others, other = learn(runtime(plain, amp="bf16"))
    assert others != records
    # The network rounds to 8 bits; SSIM computed in bf16 is off by a fifth. So are distances of features, which the
    # encoder computes in bf16, too.
    for name in ("contrastive", "perceptual"):
        distances = [[record.pop(name) for record in run] for run in (others, records)]
        assert distances[0] == pytest.approx(distances[1], rel=0.25)
    assert_same_losses(others, records, rel=0.05)
    assert {value.dtype for value in other.state_dict().values()} == {torch.float32}


def test_pixel_losses_do_not_see_autocast(plain):
    class Same(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x * self.scale

    high = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8), (48, 48), mode="bilinear")
    step = whole_frames(high + 0.01 * torch.randn_like(high), high)
    objective = Objective(Same(), Same(), None, pairs_alone(plain))
    exact = objective(step, 0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(step, 0)
    assert {name: term.item() for name, term in mixed.items()} == {n: t.item() for n, t in exact.items()}


def test_a_captured_student_keeps_its_class_and_learns_the_same(plain, learn, monkeypatch):
    # Capture is what can go wrong with this network; generating code for it takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    records, student = learn(plain)
    others, other = learn(runtime(plain, compile=True))
    assert type(other) is SemiLLIE
    assert other._compiled_call_impl is not None
    assert other.state_dict().keys() == student.state_dict().keys()
    assert_same_losses(others, records, rel=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_a_compiled_network_learns_the_same(plain):
    high = torch.rand(2, 3, 16, 16)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        student = torch.nn.Conv2d(3, 3, 3, padding=1)
        config = runtime(pairs_alone(plain), compile=compiled)
        results.append(run_steps(config, student, make_teacher(student), [whole_frames(high / 6, high)] * 2))
    assert_same_losses(*results, rel=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_a_compiled_semi_llie_has_its_gradients():
    torch.manual_seed(0)
    config = SemiLLIEConfig(
        embed_dim=32, depths=(1,), d_state=2, expand=1.0, downscale=4, thumbnail=16, thumbnail_depth=1
    )
    network = SemiLLIE(config)
    torch.nn.init.normal_(network.conv_last.weight, std=0.02)
    photo = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    gradients = []
    for student in (network, torch.compile(network)):
        network.zero_grad()
        student(photo).image.square().mean().backward()
        gradients.append(
            {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        )
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("amp", ["off", "fp16"])
@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_the_gradient_is_clipped_to_its_limit(plain, limit, amp):
    student, high = torch.nn.Conv2d(3, 3, 3, padding=1), torch.rand(2, 3, 16, 16)
    config = runtime(pairs_alone(plain), amp=amp)
    config = replace(config, optimizer=replace(config.optimizer, gradient_clip=limit))
    run_steps(config, student, make_teacher(student), [whole_frames(high / 6, high)])
    norm = torch.cat([p.grad.flatten() for p in student.parameters()]).norm().item()
    assert norm == pytest.approx(limit, rel=1e-3) if limit else norm > 0.1


def test_the_student_learns_in_training_mode_and_the_teacher_judges_in_evaluation_mode(plain):
    student, modes = torch.nn.Conv2d(3, 3, 1).eval(), []
    teacher = make_teacher(student).train()
    for module in (student, teacher):
        module.register_forward_pre_hook(lambda module, _: modes.append((module is student, module.training)))
    photo = torch.rand(1, 3, 16, 16)
    run_steps(without_encoder(plain), student, teacher, [whole_frames(photo, photo, photo, photo)])
    assert set(modes) == {(True, True), (False, False)}


class Spiteful(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


class Trap(torch.nn.Module):
    """An image-to-image network that loses its gradient at its third step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        y = self.conv(x)
        return Spiteful.apply(y) if self.training and self.calls == 3 else y


def test_a_broken_gradient_is_named_and_leaves_weights_and_checkpoint_alone(config):
    trap = Trap()
    run = replace(
        config,
        phases=(Phase(6, 2, 32),),
        checkpoint_every=1,
        data=replace(config.data, val_low="", val_high=""),
    )
    with pytest.raises(
        TrainingError, match=r"step 2 the gradient of conv\.\w+ is not finite.*new run_dir.*best\.safetensors"
    ):
        train(run, student=trap)
    state = torch.load(f"{config.run_dir}/state.pt", weights_only=True)
    assert state["step"] == 2
    for name, value in trap.state_dict().items():
        assert torch.equal(state["student"][name], value)
        assert torch.isfinite(value).all()


def test_overflow_under_a_loss_scaler_leaves_out_the_step(plain):
    trap = Trap().train()
    trap.calls = 2
    before = trap.conv.weight.detach().clone()
    step = MeanTeacherStep(
        runtime(pairs_alone(plain), amp="fp16"),
        trap,
        make_teacher(trap),
        None,
        Process(0, 1, torch.device("cpu")),
    )
    photo = torch.rand(1, 3, 16, 16)
    step(whole_frames(photo, photo), 0)
    assert torch.equal(trap.conv.weight, before)
    assert step.scaler.get_scale() == 65536 / 2
    step(whole_frames(photo / 2, photo), 1)
    assert not torch.equal(trap.conv.weight, before)


@pytest.mark.parametrize("inside", ["low", "night/runs/mine", "validation/high/run"])
def test_a_run_folder_inside_the_data_is_refused(config, photos, inside):
    with pytest.raises(TrainingError, match="inside the data folder"):
        train(replace(config, run_dir=str(photos / inside)))
    assert not (photos / inside / "log.jsonl").exists()


def test_a_run_folder_beside_the_photos_of_a_manifest_is_refused(config, photos, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    night = [
        ManifestEntry(path, "0" * 64, path.stat().st_size, 64, 48, "unpaired", "train")
        for path in find_images(photos / "night")
    ]
    write_manifest(manifest, night)
    listed = replace(config, data=replace(config.data, unpaired=(), manifest=str(manifest)))
    with pytest.raises(TrainingError, match="inside the data folder"):
        train(replace(listed, run_dir=str(photos / "night" / "run")))
    assert not (photos / "night" / "run").exists()
    # Beside the manifest is no place among the photos.
    assert train(replace(listed, phases=(Phase(1, 2, 32, 2),), run_dir=str(tmp_path / "runs"))).finished


def test_semantic_losses_without_an_encoder_are_refused(plain):
    with pytest.raises(TrainingError, match="need an encoder"):
        run_steps(plain, torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1), [])


@pytest.mark.parametrize(("before", "after"), [("off", "fp16"), ("fp16", "off"), ("fp16", "fp16")])
def test_a_run_may_go_on_in_another_precision(plain, before, after):
    def step(amp):
        network = SemiLLIE(plain.network)
        return MeanTeacherStep(
            runtime(pairs_alone(plain), amp=amp),
            network,
            make_teacher(network),
            None,
            Process(0, 1, torch.device("cpu")),
        )

    saved = step(before)
    saved.scaler.load_state_dict({**saved.scaler.state_dict(), "scale": 8.0})
    resumed = step(after)
    resumed.restore(saved.state())
    assert torch.equal(resumed.student.conv_last.weight, saved.student.conv_last.weight)
    assert resumed.scaler.get_scale() == {"off": 1.0, "fp16": 8.0 if before == "fp16" else 65536.0}[after]
