"""The released trainer's arithmetic, iteration by iteration, against a plain re-computation in float64."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import NamedTuple

import pytest
import torch
from torch.func import functional_call

from semillie_core.network import SemiLLIE, SemiLLIEConfig
from semillie_core.ram import load_efficientnet_lite0
from semillie_core.ram.encoders import SemanticFeatures
from semillie_core.training import OfficialTrainer, TrainConfig, run_steps, whole_frames
from semillie_core.training.presets import preset

EPOCH, ITERATIONS_PER_EPOCH = 40, 5
FIRST_STEP = (EPOCH - 1) * ITERATIONS_PER_EPOCH
PAPER_LIKE = SemiLLIEConfig(embed_dim=32, depths=(1, 1), d_state=2, expand=1.0, drop_path_rate=0.0)


def released(
    network: SemiLLIEConfig = PAPER_LIKE,
    *,
    semantic: bool = False,
    semantic_gradient: bool = True,
    weight: float = 0.1,
) -> TrainConfig:
    """The ``paper`` preset on a network, with the losses on RAM's features or without."""
    values = preset("paper") | {"run_dir": "unused", "network": network.to_dict()}
    values["semantic_gradient"] = semantic_gradient
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


class Losses(NamedTuple):
    total: torch.Tensor
    supervised: torch.Tensor
    unsupervised: torch.Tensor


def released_loss(network, student, teacher, batch, encoder, semantic_gradient):
    low, high, weak, strong = batch
    with torch.no_grad():
        pseudo = functional_call(network, teacher, (weak,)).image
    output = functional_call(network, student, (low,)).image
    unlabelled = functional_call(network, student, (strong,)).image
    supervised = 0.8 * l1(output, high) + 0.2 * ((output - high) ** 2).mean()
    supervised = supervised + 0.1 * 2 * l1(gradient_magnitude(output), gradient_magnitude(high))
    unsupervised = l1(unlabelled, pseudo)
    if encoder is not None:
        if not semantic_gradient:  # as released
            output, unlabelled = output.detach(), unlabelled.detach()
        mine, theirs = (encoder.encode(x).maps for x in (output, high))
        distances = [((a - b) ** 2).mean() for a, b in zip(mine, theirs, strict=True)]
        supervised = supervised + 0.1 * sum(distances) / 3
        anchor, positive, negative = (encoder.encode(x, logits=True) for x in (unlabelled, pseudo, strong))
        for part in ("tokens", "logits"):
            a, p, n = (getattr(features, part) for features in (anchor, positive, negative))
            unsupervised = unsupervised + l1(a, p) / (l1(a, n) + 1e-7)
    weight = 0.1 * math.exp(-5 * (1 - EPOCH / 100) ** 2)
    return Losses(supervised + weight * unsupervised, supervised, unsupervised)


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


class Iteration(NamedTuple):
    losses: Losses
    gradients: dict[str, torch.Tensor]
    student: dict[str, torch.Tensor]
    teacher: dict[str, torch.Tensor]


def recompute(network, teacher, batches, encoder, followed, *, semantic_gradient):
    """What each iteration computes, and student and teacher after it."""
    student, teacher = (
        {name: value.clone() for name, value in module.state_dict().items()} for module in (network, teacher)
    )
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    memory = dict.fromkeys(trainable, (0.0, 0.0))
    iterations = []
    for count, batch in enumerate(batches, start=1):
        leaves = {n: student[n].detach().requires_grad_() for n in trainable}
        losses = released_loss(network, student | leaves, teacher, batch, encoder, semantic_gradient)
        gradients = dict(
            zip(trainable, torch.autograd.grad(losses.total, list(leaves.values())), strict=True)
        )
        for name, gradient in gradients.items():
            student[name], memory[name] = adamp(leaves[name].detach(), gradient, memory[name], count)
        keep = min(1 - 1 / (followed + count), 0.996)
        teacher = {name: keep * teacher[name] + (1 - keep) * student[name] for name in teacher}
        iterations.append(Iteration(losses, gradients, dict(student), teacher))
    return iterations


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


@pytest.mark.parametrize(
    ("semantic", "semantic_gradient"),
    [(False, True), (True, True), (True, False)],
    ids=["none", "kept", "cut"],
)
@pytest.mark.parametrize("followed", [0, FIRST_STEP])
def test_three_released_iterations(networks, batches, semantic, semantic_gradient, followed):
    student, teacher = networks
    encoder = Semantics() if semantic else None
    expected = recompute(student, teacher, batches, encoder, followed, semantic_gradient=semantic_gradient)
    records = run_steps(
        released(semantic=semantic, semantic_gradient=semantic_gradient),
        student,
        teacher,
        [whole_frames(*batch) for batch in batches],
        first_step=FIRST_STEP,
        followed=followed,
        encoder=encoder,
    )
    losses = [iteration.losses.total.item() for iteration in expected]
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-12)
    assert {record["lr"] for record in records} == {2e-4}
    # Three steps move weights by 6e-4.
    assert largest_difference(student.state_dict(), expected[-1].student) < 1e-12
    assert largest_difference(teacher.state_dict(), expected[-1].teacher) < 1e-12


@pytest.mark.parametrize("semantic", [False, True])
def test_the_official_trainer_by_iteration(networks, batches, semantic):
    student, teacher = networks
    encoder, followed = (Semantics() if semantic else None), 247
    expected = recompute(student, teacher, batches, encoder, followed, semantic_gradient=False)
    trainer = OfficialTrainer(student, teacher, epoch=EPOCH, iteration=followed, encoder=encoder)
    for batch, wanted in zip(batches, expected, strict=True):
        seen = trainer.step(*batch)
        losses = seen.loss, seen.supervised, seen.unsupervised
        assert losses == pytest.approx([loss.item() for loss in wanted.losses], rel=1e-12)
        parts = (
            seen.structure + 0.1 * seen.perceptual + 0.1 * seen.gradient,
            seen.consistency + seen.contrastive,
        )
        assert parts == pytest.approx(losses[1:], rel=1e-12)
        assert bool(seen.perceptual and seen.contrastive) is semantic
        gradients = {name: p.grad for name, p in student.named_parameters() if p.requires_grad}
        assert largest_difference(gradients, wanted.gradients) < 1e-12
        assert largest_difference(student.state_dict(), wanted.student) < 1e-12
        assert largest_difference(teacher.state_dict(), wanted.teacher) < 1e-12
    assert (seen.learning_rate, seen.teacher_decay, trainer.iteration) == (2e-4, 0.996, 250)
    assert seen.consistency_weight == pytest.approx(0.1 * math.exp(-1.8))
    # The epoch may be told between steps, and the optimiser goes on.
    trainer.epoch = 152
    assert trainer.step(*batches[0]).learning_rate == pytest.approx(2e-6)
    assert trainer.optimizer.state[student.conv_first.weight]["step"] == 4


def test_the_official_trainer_wants_ram_as_released(networks):
    with pytest.raises(ValueError, match="official_compat=True"):
        OfficialTrainer(*networks, encoder=load_efficientnet_lite0().encoder)
    encoder = Semantics()
    encoder.official_compat = False
    with pytest.raises(ValueError, match="official_compat=True"):
        OfficialTrainer(*networks, encoder=encoder)


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


class Record(NamedTuple):
    """What a record of official iterations holds."""

    before: dict[str, dict[str, torch.Tensor]]
    after: dict[str, dict[str, torch.Tensor]]
    batches: list[tuple[torch.Tensor, ...]]


RECORDED_ITERATIONS = 3
NETWORKS = {"teacher": "teacher|tmodel|ema", "student": "student|model|net"}
NOT_WEIGHTS = "grad|optim|adam|exp_avg|moment"
NOT_IMAGES = "loss|out|pred|pseudo|grad|enhanced"
# In this order: names of unpaired views may hold "labeled" or "input", those of references "label".
IMAGES = {
    "strong": r"strong|(unpaired|unlabell?ed)\w*?_s(?![a-z])",
    "weak": r"weak|(unpaired|unlabell?ed)\w*?_w(?![a-z])",
    "high": r"gt|high|target|reference|(?<![a-z])label(?=[._]?\d*$)",
    "low": r"low|input|img|(?<!un)labell?ed",
}


def read_record(tensors):
    """Sort out a record whose key names are not known beforehand; fails, with the keys, where they make no sense.

    A network's snapshots are told apart by the last number in what comes before its weights' names, epochs aside, or
    by words.
    """
    first_layer = "conv_first.weight"
    prefixes = {key.removesuffix(first_layer) for key in tensors if key.endswith(first_layer)}
    owner = {key: max(filter(key.startswith, prefixes), key=len, default=None) for key in tensors}
    loose = [key for key, prefix in owner.items() if prefix is None]

    def refuse(reason):
        networks = [f"{prefix}* ({sum(p == prefix for p in owner.values())})" for prefix in sorted(prefixes)]
        pytest.fail(f"Record of official iterations not understood: {reason}. It holds {networks + loose}")

    def moment(prefix):
        numbers = re.findall(r"\d+", re.sub(r"epoch\D?\d+", "", prefix, flags=re.I))
        late, early = (
            bool(re.search(words, prefix, re.I))
            for words in ("after|final|end|last", "before|init|start|first")
        )
        if early == late and not numbers:
            refuse(f"whether {prefix!r} is the first snapshot or the last")
        number = int(numbers[-1]) if numbers else math.inf if late else -math.inf
        return number, late - early

    snapshots = {who: {} for who in NETWORKS}
    for prefix in sorted(prefixes):
        if re.search(NOT_WEIGHTS, prefix, re.I):
            continue
        who = next((who for who, words in NETWORKS.items() if re.search(words, prefix, re.I)), None)
        if who is None:
            refuse(f"whose weights {prefix!r} are")
        if (when := moment(prefix)) in snapshots[who]:
            refuse(f"{prefix!r} and {snapshots[who][when]!r} seem to be of the same moment")
        snapshots[who][when] = prefix
    for who, moments in snapshots.items():
        if len(moments) < 2:
            refuse(f"{len(moments)} snapshots of the {who}")

    def state(who, choose):
        prefix = snapshots[who][choose(snapshots[who])]
        return {k.removeprefix(prefix): v for k, v in tensors.items() if owner[k] == prefix}

    columns = {role: [] for role in IMAGES}
    for key in sorted(loose, key=lambda key: [int(n) for n in re.findall(r"\d+", key)]):
        role = next((role for role, words in IMAGES.items() if re.search(words, key, re.I)), None)
        if role and tensors[key].dim() in (4, 5) and not re.search(NOT_IMAGES, key, re.I):
            columns[role].append(tensors[key])
    for role, found in columns.items():
        if len(found) == 1:
            # Stacked, or the same at every iteration.
            columns[role] = list(found[0]) if found[0].dim() == 5 else found * RECORDED_ITERATIONS
        if len(columns[role]) != RECORDED_ITERATIONS:
            refuse(f"{len(columns[role])} {role} images")
    before, after = ({who: state(who, choose) for who in NETWORKS} for choose in (min, max))
    return Record(
        before, after, list(zip(*(columns[r] for r in ("low", "high", "weak", "strong")), strict=True))
    )


def recorded(networks, images):
    """A record with a number in every tensor: ``{prefix: number}``, and images as ``{key: numbers of the frames}``."""
    tensors = {}
    for prefix, number in networks.items():
        for key in ("conv_first.weight", "layers.0.conv.bias", "get_gradient.weight_h"):
            tensors[prefix + key] = torch.tensor(float(number))
    for key, frames in images.items():
        stacked = torch.stack([torch.full((2, 3, 4, 4), float(frame)) for frame in frames])
        tensors[key] = stacked if len(frames) > 1 else stacked[0]
    return tensors


def four(*names):
    """Images 0 to 3 of four kinds, stacked."""
    return {name: [10 * kind + step for step in range(3)] for kind, name in enumerate(names)}


def apart(*patterns):
    """The same, one tensor an iteration."""
    return {pattern.format(s): [10 * k + s] for k, pattern in enumerate(patterns) for s in range(3)}


@pytest.mark.parametrize(
    ("networks", "images"),
    [
        (
            {"student_before.": 0, "student_after.": 3, "teacher_before.": 10, "teacher_after.": 13},
            four("labeled_input", "labeled_gt", "unlabeled_weak", "unlabeled_strong"),
        ),
        (
            {
                "before.student.module.": 0,
                "after.student.module.": 3,
                "init.teacher.": 10,
                "final.teacher.": 13,
            },
            apart("labelled.{}", "GT.{}", "unlabelled_w.{}", "unlabelled_s.{}"),
        ),
        (
            {"student0.": 0, "student3.": 3, "teacher0.": 10, "teacher3.": 13},
            four("img_data", "label", "unpaired_data_w", "unpaired_data_s"),
        ),
        (
            {f"{who}.{n}.": 10 * k + n for k, who in enumerate(("model", "tmodel")) for n in range(4)},
            apart("iter{}.img_data", "iter{}.label", "iter{}.unpaired_data_w", "iter{}.unpaired_data_s"),
        ),
        (
            {
                **{"init.student.": 0, "init.teacher.": 10, "step0.student.grad.": 99},
                **{f"step{n}.student.": n + 1 for n in range(3)},
                **{f"step{n}.teacher.": n + 11 for n in range(3)},
            },
            apart("img_data{}", "label{}", "unpaired_data_w{}", "unpaired_data_s{}")
            | {"loss_labeled_out": [5]},
        ),
        (
            {"w.epoch40.student.start.": 0, "w.epoch40.student.iter3.": 3}
            | {"w.epoch_40.teacher.start.": 10, "w.epoch_40.teacher.end.": 13},
            four("io.low", "io.high", "io.weak", "io.strong"),
        ),
    ],
)
def test_records_are_read_whatever_their_names(networks, images):
    record = read_record(recorded(networks, images))
    for moment, added in ((record.before, 0), (record.after, 3)):
        for who, number in (("student", added), ("teacher", added + 10)):
            assert set(moment[who]) == {"conv_first.weight", "layers.0.conv.bias", "get_gradient.weight_h"}
            assert {float(value) for value in moment[who].values()} == {number}
    seen = [[float(image.mean()) for image in batch] for batch in record.batches]
    assert seen == [[step, 10 + step, 20 + step, 30 + step] for step in range(3)]


def test_one_batch_may_serve_all_recorded_iterations():
    networks = {"student0.": 0, "student3.": 3, "teacher0.": 10, "teacher3.": 13}
    images = {"img_data": [0], "label": [1], "unpaired_data_w": [2], "unpaired_data_s": [3]}
    batches = read_record(recorded(networks, images)).batches
    assert [[float(image.mean()) for image in batch] for batch in batches] == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(
    ("networks", "images", "says"),
    [
        ({"a0.": 0, "b0.": 1}, {}, "whose weights 'a0.' are"),
        ({"": 0}, {}, "whose weights '' are"),
        ({"student0.": 0, "teacher0.": 1, "teacher1.": 1}, {}, "1 snapshots of the student"),
        ({"student.": 0, "student_after.": 1}, {}, "whether 'student.' is the first"),
        ({"x.student0.": 0, "y.student0.": 1}, {}, "of the same moment"),
        (
            {f"{who}{n}.": 0 for who in ("student", "teacher") for n in (0, 3)},
            four("img_data", "label", "unpaired_data_w", "other"),
            "0 strong images.*'other'\\]",
        ),
    ],
)
def test_a_record_that_makes_no_sense_fails_with_its_keys(networks, images, says):
    with pytest.raises(pytest.fail.Exception, match=says) as failure:
        read_record(recorded(networks, images))
    assert all(f"{prefix}* (3)" in str(failure.value) for prefix in networks)


def test_official_iterations_of_the_fixture(parity):
    """Three iterations of the official trainer, where its record is at hand; its key names are read from the record."""
    facts, tensors = parity("semillie_trainstep_parity")
    record = read_record(tensors)
    first = record.before["student"]
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
    teacher.load_state_dict(record.before["teacher"])
    followed = next(
        (v for k, v in facts.items() if isinstance(v, int) and re.search("iter.*(start|first)|ema", k)), 0
    )
    trainer = OfficialTrainer(student, teacher, epoch=EPOCH, iteration=followed)
    for batch in record.batches:
        trainer.step(*batch)
    for module, who in ((student, "student"), (teacher, "teacher")):
        assert largest_difference(module.state_dict(), record.after[who]) < 2e-5
