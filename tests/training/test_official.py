"""The released trainer's arithmetic, iteration by iteration, against a plain re-computation in float64."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from torch.func import functional_call

from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.ram.encoders import SemanticFeatures
from semillie_core.training import TrainConfig, run_steps, whole_frames
from semillie_core.training.presets import preset

EPOCH, ITERATIONS_PER_EPOCH = 40, 5
FIRST_STEP = (EPOCH - 1) * ITERATIONS_PER_EPOCH
PAPER_LIKE = SemiLLIEConfig(embed_dim=32, depths=(1, 1), d_state=2, expand=1.0, drop_path_rate=0.0)


def released(
    network: SemiLLIEConfig = PAPER_LIKE, *, semantic: bool = False, weight: float = 0.1
) -> TrainConfig:
    """The ``paper`` preset on a network, with the losses on RAM's features or without."""
    values = preset("paper") | {"run_dir": "unused", "network": network.to_dict()}
    values["optimizer"] |= {"epoch_steps": ITERATIONS_PER_EPOCH}
    values["consistency"] |= {"weight": weight, "contrastive": float(semantic)}
    values["loss"] |= {"perceptual": 0.1 if semantic else 0.0}
    return TrainConfig.from_dict(values)


class Semantics(torch.nn.Module):
    """Fixed random features in the shape of RAM's: maps, tokens, tag scores."""

    name, is_ram = "random features", True

    def __init__(self) -> None:
        super().__init__()
        self.taps = torch.nn.ModuleList(torch.nn.Conv2d(3, 4 * k, 2 * k, 2 * k) for k in (1, 2, 3))
        self.tokens, self.tags = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 5)
        self.requires_grad_(False).double()

    def encode(self, image, *, maps=True, embedding=True, logits=False):
        tokens = self.tokens(image).flatten(2).transpose(1, 2).tanh()
        return SemanticFeatures(
            maps=tuple(tap(image).tanh() for tap in self.taps) if maps else (),
            tokens=tokens if embedding else None,
            logits=self.tags(tokens.mean(1)) if logits else None,
        )


def gradient_magnitude(image):
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    vertical = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    horizontal = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    return (vertical**2 + horizontal**2 + 1e-6).sqrt()


def l1(x, y):
    return (x - y).abs().mean()


def released_loss(network, student, teacher, batch, encoder):
    low, high, weak, strong = batch
    with torch.no_grad():
        pseudo = functional_call(network, teacher, (weak,)).image
    output = functional_call(network, student, (low,)).image
    unlabelled = functional_call(network, student, (strong,)).image
    supervised = 0.8 * l1(output, high) + 0.2 * ((output - high) ** 2).mean()
    supervised = supervised + 0.1 * 2 * l1(gradient_magnitude(output), gradient_magnitude(high))
    unsupervised = l1(unlabelled, pseudo)
    if encoder is not None:
        mine, theirs = (encoder.encode(x).maps for x in (output, high))
        distances = [((a - b) ** 2).mean() for a, b in zip(mine, theirs, strict=True)]
        supervised = supervised + 0.1 * sum(distances) / 3
        anchor, positive, negative = (encoder.encode(x, logits=True) for x in (unlabelled, pseudo, strong))
        for part in ("tokens", "logits"):
            a, p, n = (getattr(features, part) for features in (anchor, positive, negative))
            unsupervised = unsupervised + l1(a, p) / (l1(a, n) + 1e-7)
    weight = 0.1 * math.exp(-5 * (1 - EPOCH / 100) ** 2)
    return supervised + weight * unsupervised


def adamp(weight, gradient, memory, count):
    """One update of AdamP as the released trainer configures it."""
    rate, first, second, eps, decay = 2e-4, 0.9, 0.999, 1e-8, 1e-4
    mean, square = memory
    mean = first * mean + (1 - first) * gradient
    square = second * square + (1 - second) * gradient**2
    update = mean / ((square / (1 - second**count)).sqrt() + eps)
    if weight.dim() > 1:
        for rows in (weight.shape[0], 1):
            w, g, u = (t.reshape(rows, -1) for t in (weight, gradient, update))
            lengths = w.norm(dim=1).clamp_min(eps) * g.norm(dim=1).clamp_min(eps)
            cosine = ((w * g).sum(1) / lengths).abs()
            if cosine.max() < 0.1 / w.shape[1] ** 0.5:
                unit = w / (w.norm(dim=1, keepdim=True) + eps)
                update = (u - unit * (unit * u).sum(1, keepdim=True)).reshape(weight.shape)
                decay *= 0.1
                break
    weight = weight * (1 - rate * decay) - rate / (1 - first**count) * update
    return weight, (mean, square)


def recompute(network, student, teacher, batches, encoder, followed):
    """Losses, and student and teacher after the iterations."""
    student, teacher = dict(student), dict(teacher)
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    memory = dict.fromkeys(trainable, (0.0, 0.0))
    losses = []
    for count, batch in enumerate(batches, start=1):
        leaves = {n: student[n].detach().requires_grad_() for n in trainable}
        loss = released_loss(network, student | leaves, teacher, batch, encoder)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for name, gradient in zip(trainable, gradients, strict=True):
            student[name], memory[name] = adamp(leaves[name].detach(), gradient, memory[name], count)
        keep = min(1 - 1 / (followed + count), 0.996)
        teacher = {name: keep * teacher[name] + (1 - keep) * student[name] for name in teacher}
        losses.append(loss.item())
    return losses, student, teacher


def largest_difference(actual, expected):
    return max(float((actual[name] - value).abs().max()) for name, value in expected.items())


@pytest.fixture
def networks():
    """A student, and a teacher that was initialised on its own, in float64."""
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        made.append(SemiLLIE(PAPER_LIKE).double())
    return made


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(5)
    high = torch.rand(3, 2, 3, 12, 12, generator=generator, dtype=torch.float64)
    night = torch.rand(3, 2, 3, 12, 12, generator=generator, dtype=torch.float64) / 5
    return [(h / 6, h, n, (n * 1.3).clamp(0, 1)) for h, n in zip(high, night, strict=True)]


@pytest.mark.parametrize("semantic", [False, True])
@pytest.mark.parametrize("followed", [0, FIRST_STEP])
def test_three_released_iterations(networks, batches, semantic, followed):
    student, teacher = networks
    encoder = Semantics() if semantic else None
    expected, weights, averages = recompute(
        student, student.state_dict(), teacher.state_dict(), batches, encoder, followed
    )
    records = run_steps(
        released(semantic=semantic),
        student,
        teacher,
        [whole_frames(*batch) for batch in batches],
        first_step=FIRST_STEP,
        followed=followed,
        encoder=encoder,
    )
    assert [record["loss"] for record in records] == pytest.approx(expected, rel=1e-6)
    assert {record["lr"] for record in records} == {2e-4}
    # Three steps move weights by 6e-4; distances of features are taken in float32.
    tolerance = 1e-7 if semantic else 1e-12
    assert largest_difference(student.state_dict(), weights) < tolerance
    assert largest_difference(teacher.state_dict(), averages) < tolerance


def test_the_preset_is_the_released_recipe():
    config = released(semantic=True)
    assert config.official_compat
    assert (config.optimizer.name, config.optimizer.accumulate, config.runtime.amp) == ("adamp", 1, "off")
    assert config.consistency.contrastive_form == "ratio"
    assert TrainConfig.from_dict(preset("paper") | {"run_dir": "r"}).network == SemiLLIEConfig()


def test_the_teacher_drops_paths_in_the_first_epoch_alone(networks, batches):
    dropping = dataclasses.replace(PAPER_LIKE, drop_path_rate=0.5)
    modes = []
    for first_step in (0, ITERATIONS_PER_EPOCH):
        student, teacher = SemiLLIE(dropping).double(), SemiLLIE(dropping).double()
        teacher.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
        step = whole_frames(*batches[0])
        run_steps(released(dropping), student, teacher, [step], first_step=first_step)
    assert modes == [True, False]


def test_official_iterations_of_the_fixture(parity):
    """Three iterations of the official trainer, where its record is at hand; its key names are read from the record."""
    facts, tensors = parity("semillie_trainstep_parity")
    prefixes = [key.removesuffix("conv_first.weight") for key in tensors if key.endswith("conv_first.weight")]

    def state(who, when):
        (prefix,) = (p for p in prefixes if re.search(who, p) and re.search(when, p))
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    def images(pattern):
        names = sorted(k for k in tensors if re.search(pattern, k) and not k.startswith(tuple(prefixes)))
        found = [tensors[name] for name in names]
        return list(found[0]) if len(found) == 1 and found[0].dim() == 5 else found

    before, after = "before|init|start", "after|final|end"
    columns = [images(p) for p in ("low|label.*input|labeled", "gt|GT|high|target", "weak", "strong")]
    assert {len(column) for column in columns} == {3}, f"Not understood: {facts}"
    first = state("student", before)
    depths = {int(k.split(".")[1]) for k in first if k.startswith("layers.")}
    blocks = {
        (int(m[1]), int(m[2]))
        for k in first
        if (m := re.search(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)", k))
    }
    ssm = "layers.0.residual_group.blocks.0.self_attention."
    width = first["conv_first.weight"].shape[0]
    network = SemiLLIEConfig(
        embed_dim=width,
        depths=tuple(sum(group == depth for group, _ in blocks) for depth in sorted(depths)),
        d_state=first[f"{ssm}A_logs"].shape[1],
        expand=first[f"{ssm}in_proj.weight"].shape[0] / 2 / width,
        drop_path_rate=0.0,
    )
    student, teacher = SemiLLIE(network), SemiLLIE(network)
    student.load_state_dict(first)
    teacher.load_state_dict(state("teacher", before))
    followed = next(
        (v for k, v in facts.items() if isinstance(v, int) and re.search("iter.*(start|first)|ema", k)), 0
    )
    steps = [whole_frames(*batch) for batch in zip(*columns, strict=True)]
    run_steps(released(network), student, teacher, steps, first_step=FIRST_STEP, followed=followed)
    for module, who in ((student, "student"), (teacher, "teacher")):
        assert largest_difference(module.state_dict(), state(who, after)) < 2e-5
