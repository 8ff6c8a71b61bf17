"""The bank keeps the better label, forgets what no checkpoint knows, and stays in its folder."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch

from semillie_core.data import find_images
from semillie_core.metrics import niqe
from semillie_core.training import bank as bank_module
from semillie_core.training.bank import PseudoLabelBank, make_label

SIZE = (96, 192)
"""The smallest that NIQE judges."""


def label(noise: float):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 12, 24, generator=generator), SIZE, mode="bicubic"
    )
    return (smooth[0] + noise * torch.randn(3, *SIZE, generator=generator)).clamp(0, 1)


@pytest.fixture
def labels():
    """A worse and a better label, as NIQE has it."""
    candidates = [label(0.02), label(0.3)]
    return sorted(candidates, key=lambda image: -float(niqe(image[None])))


@pytest.fixture
def night(photos):
    return find_images(photos / "night")


def test_only_better_labels_replace(labels, night, tmp_path):
    worse, better = labels
    bank = PseudoLabelBank(tmp_path / "bank", night)
    assert bank.lookup(night[0]) is None
    bank.accept(bank.refresh(lambda path: worse, 1))
    first = bank.lookup(night[0])
    torch.testing.assert_close(first, worse, atol=1e-3, rtol=0)
    assert first.dtype == torch.float32
    assert bank.refresh(lambda path: worse, 2) == {}
    bank.accept(bank.refresh(lambda path: better, 3))
    torch.testing.assert_close(bank.lookup(night[0]), better, atol=1e-3, rtol=0)
    assert bank.refresh(lambda path: worse, 4) == {}
    assert len(bank) == len(night)


def test_labels_are_keyed_by_content(labels, night, tmp_path):
    bank = PseudoLabelBank(tmp_path / "bank", night)
    bank.accept(bank.refresh(lambda path: labels[0], 1))
    assert set(bank.state()) == {hashlib.sha256(path.read_bytes()).hexdigest() for path in night}
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(night[0].read_bytes())
    other = PseudoLabelBank(tmp_path / "bank", [moved])
    other.restore(bank.state())
    assert other.lookup(moved) is not None


def test_a_run_that_stopped_goes_back_to_the_labels_of_its_checkpoint(labels, night, tmp_path):
    worse, better = labels
    bank = PseudoLabelBank(tmp_path / "bank", night)
    bank.accept(bank.refresh(lambda path: worse, 1))
    checkpoint = bank.state()
    bank.accept(bank.refresh(lambda path: better, 2))  # killed before the next checkpoint

    (tmp_path / "bank" / "notes.txt").touch()
    resumed = PseudoLabelBank(tmp_path / "bank", night)
    resumed.restore(checkpoint)
    torch.testing.assert_close(resumed.lookup(night[0]), worse, atol=1e-3, rtol=0)
    names = {path.name for path in (tmp_path / "bank").iterdir()}
    assert names == {name for name, _ in checkpoint.values()} | {"notes.txt"}


def test_processes_that_clear_up_together_do_not_trip(labels, night, tmp_path, monkeypatch):
    bank = PseudoLabelBank(tmp_path / "bank", night)
    bank.refresh(lambda path: labels[0], 1)
    unlink = Path.unlink

    def twice(path, *arguments, **options):
        unlink(path)
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", twice)
    bank.restore({})
    assert list((tmp_path / "bank").iterdir()) == []


def test_every_photo_belongs_to_one_process(labels, night, tmp_path):
    banks = [PseudoLabelBank(tmp_path / "bank", night) for _ in range(2)]
    seen = []
    changes = [
        bank.refresh(lambda path: seen.append(path) or labels[0], 1, rank=rank, world=2)
        for rank, bank in enumerate(banks)
    ]
    assert sorted(seen) == sorted(night)
    for bank in banks:
        for change in changes:
            bank.accept(change)
    assert banks[0].state() == banks[1].state()
    assert len(banks[0]) == len(night)


def test_labels_that_cannot_be_judged_or_made_are_left_out(night, tmp_path):
    bank = PseudoLabelBank(tmp_path / "bank", night)
    assert bank.refresh(lambda path: torch.rand(3, 95, 192), 1) == {}
    assert bank.refresh(lambda path: torch.full((3, *SIZE), math.nan), 1) == {}
    assert bank.refresh(lambda path: None, 1) == {}
    assert list((tmp_path / "bank").iterdir()) == []


class Brighten(torch.nn.Module):
    """A teacher that triples values, and remembers the sizes of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.sizes = torch.nn.Parameter(torch.tensor(3.0)), []

    def forward(self, x):
        assert not self.training
        self.sizes.append(tuple(x.shape[2:]))
        return self.gain * x


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_label_is_what_the_teacher_makes_of_the_photo(dtype):
    photo = torch.randint(0, torch.iinfo(dtype).max, (3, 20, 30)).to(dtype)
    label = make_label(Brighten().train(), photo)
    torch.testing.assert_close(label, (3 * photo.float() / torch.iinfo(dtype).max).clamp(0, 1))
    assert not label.requires_grad


def test_a_large_photo_is_judged_at_a_half_or_a_quarter_of_its_size(monkeypatch):
    monkeypatch.setattr(bank_module, "LARGEST_WHOLE", 300)
    teacher, coarse = Brighten(), torch.randint(0, 80, (3, 15, 20), dtype=torch.uint8)
    label = make_label(teacher, coarse.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert teacher.sizes == [(15, 20)]
    expected = torch.nn.functional.interpolate(3 * coarse[None].float() / 255, (60, 80), mode="bilinear")[0]
    torch.testing.assert_close(label, expected)
