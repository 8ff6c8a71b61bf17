"""Every loss term: it reaches the student, it matters, and it reaches nothing else."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from semillie_core.data import TrainingData
from semillie_core.data.sampling import StepData
from semillie_core.inference.noise import reduce_noise
from semillie_core.losses import colour_loss, detail_loss, gradient_loss, ssim_loss, structure_loss
from semillie_core.losses.semantic import SemanticContrastiveLoss, SemanticPerceptualLoss
from semillie_core.network import SemiLLIE
from semillie_core.ram import load_efficientnet_lite0
from semillie_core.training import Objective, Phase, train
from semillie_core.training.mean_teacher import make_teacher, update_teacher
from semillie_core.training.students import View, enhance_view

replace = dataclasses.replace
TERMS = {
    "ssim": ("loss", "ssim"),
    "gradient": ("loss", "gradient"),
    "detail": ("loss", "detail"),
    "colour": ("loss", "colour"),
    "illumination": ("loss", "illumination"),
    "perceptual": ("loss", "perceptual"),
    "consistency": ("consistency", "weight"),
    "contrastive": ("consistency", "contrastive"),
}


@pytest.fixture
def full(config):
    """All terms, at full weight from the start, on differently initialised student and teacher."""
    return replace(
        config,
        phases=(Phase(3, 2, 32, 2),),
        loss=replace(config.loss, colour=0.1, detail=0.5),
        consistency=replace(config.consistency, ramp_steps=0, logits=True),
        data=replace(config.data, val_low="", val_high=""),
    )


@pytest.fixture
def pieces(full):
    torch.manual_seed(0)
    student = SemiLLIE(full.network)
    torch.manual_seed(1)
    teacher = make_teacher(SemiLLIE(full.network))
    # The last convolution starts at zero, which would hide the body from the gradient.
    torch.nn.init.normal_(student.conv_last.weight, std=0.02)
    # So does what the thumbnail says.
    for network in (student, teacher):
        torch.nn.init.normal_(network.estimator.global_gain.weight, std=0.1)
    encoder = load_efficientnet_lite0().encoder
    data = TrainingData(full.data, 0, full.network.thumbnail)
    step = StepData(data.paired(0, 2, 32), data.unpaired(0, 2, 32))
    return Objective(student, teacher, encoder, full), student, teacher, encoder, step


def test_each_term_sends_gradient_to_the_student_alone(pieces):
    objective, student, teacher, encoder, step = pieces
    terms = objective(step, 0)
    assert set(terms) == {"structure", *TERMS}
    for name, term in terms.items():
        student.zero_grad()
        term.backward(retain_graph=True)
        reached = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        # The illumination loss sees the estimator's output; every other term the whole network's.
        wanted = "estimator.global_gain.weight" if name == "illumination" else "layers.0.conv.weight"
        assert wanted in reached, name
    for module in (teacher, encoder):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_each_term_is_its_loss_times_its_weight(pieces, full):
    _, student, teacher, encoder, _ = pieces
    # No multiple of the pooled areas' edge.
    data = TrainingData(full.data, 0, full.network.thumbnail)
    paired, unpaired = data.paired(3, 2, 40), data.unpaired(0, 2, 32)
    run = replace(
        full, loss=replace(full.loss, perceptual_from=2), consistency=replace(full.consistency, ramp_steps=10)
    )
    objective = Objective(student, teacher, encoder, run)
    with torch.no_grad():
        output = enhance_view(student, View(paired.low, paired.thumbnail, paired.region))
        followed = enhance_view(
            student, View(unpaired.strong, unpaired.strong_thumbnail, unpaired.region)
        ).image
        target = enhance_view(teacher, View(unpaired.weak, unpaired.weak_thumbnail, unpaired.region)).image
    coarse = [F.avg_pool2d(x, 16, ceil_mode=True) for x in (output.illumination, paired.high)]
    assert coarse[0].shape[2:] == (3, 3)
    image, high, weight, ramp = output.image, paired.high, run.loss, 0.2 * math.exp(-5 * 0.8**2)
    expected = {
        "structure": structure_loss(image, high),
        "ssim": weight.ssim * ssim_loss(image, high),
        "gradient": weight.gradient * gradient_loss(image, high),
        "detail": 0.5 * detail_loss(image, high),
        "colour": 0.1 * colour_loss(image, high),
        "illumination": weight.illumination * structure_loss(*coarse),
        "perceptual": 0.05 * SemanticPerceptualLoss(encoder, relative=True)(image, high),
        "consistency": ramp * (followed - target).abs().mean(),
        "contrastive": ramp
        * SemanticContrastiveLoss(encoder, "bounded", True)(followed, target, unpaired.strong),
    }
    terms = objective(StepData(paired, unpaired), 2)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert "perceptual" not in objective(StepData(paired, None), 1)


@pytest.mark.parametrize("name", TERMS)
def test_a_run_without_a_term_ends_elsewhere(full, name, tmp_path):
    group, option = TERMS[name]
    without = replace(full, **{group: replace(getattr(full, group), **{option: 0.0})})
    ends = []
    for index, run in enumerate((full, without)):
        result = train(replace(run, run_dir=str(tmp_path / f"{index}")))
        ends.append(torch.load(result.last.parent / "state.pt", weights_only=True)["student"])
    assert any(not torch.equal(ends[0][key], value) for key, value in ends[1].items())


def test_pseudo_labels_of_the_bank_replace_the_teachers_output(pieces):
    objective, _, teacher, _, step = pieces
    batch = step.unpaired
    label = torch.full_like(batch.pseudo, 0.25)
    banked = replace(batch, pseudo=label, has_pseudo=torch.tensor([True, False]))
    image = objective._pseudo_label(banked)
    view = View(batch.weak, batch.weak_thumbnail, batch.region)
    with torch.no_grad():
        own = enhance_view(teacher, view).image
    assert torch.equal(image[0], label[0])
    assert torch.equal(image[1], own[1])


def test_pixel_losses_see_noise_reduction_by_their_share(pieces):
    objective, student, _, _, step = pieces
    batch = step.paired
    output = enhance_view(student, View(batch.low, batch.thumbnail, batch.region)).image
    smooth = reduce_noise(batch.low, output)
    for share in (0.25, 1.0):
        objective.config = replace(objective.config, loss=replace(objective.config.loss, noise_reduced=share))
        terms = objective(step, 0)
        for name, loss in (
            ("structure", structure_loss),
            ("detail", lambda *images: 0.5 * detail_loss(*images)),
        ):
            expected = (1 - share) * loss(output, batch.high) + share * loss(smooth, batch.high)
            torch.testing.assert_close(terms[name], expected)
        student.zero_grad()
        terms["detail"].backward()
        assert student.conv_last.weight.grad.abs().sum() > 0


def test_the_student_follows_the_teacher_without_its_noise(pieces):
    objective, _, _, _, step = pieces
    label = objective._pseudo_label(step.unpaired)
    objective.config = replace(
        objective.config, consistency=replace(objective.config.consistency, noise_reduction=2.0)
    )
    smooth = objective._pseudo_label(step.unpaired)
    torch.testing.assert_close(smooth, reduce_noise(step.unpaired.weak, label, 2.0))
    assert (smooth - label).abs().max() > 1e-3


def test_the_teacher_averages_weights_and_copies_buffers():
    student = torch.nn.BatchNorm1d(2)
    teacher = make_teacher(student)
    with torch.no_grad():
        student.weight.fill_(3.0)
        student.running_mean.fill_(5.0)
        student.num_batches_tracked.fill_(7)
    update_teacher(teacher, student, 0.75)
    assert teacher.weight.tolist() == [1.5, 1.5]
    assert teacher.running_mean.tolist() == [5.0, 5.0]
    assert int(teacher.num_batches_tracked) == 7
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
