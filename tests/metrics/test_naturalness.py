"""NIQE against values of an independent implementation, and its behaviour under distortion."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from semillie_core.metrics import niqe


def as_batch(array):
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).unsqueeze(0).double() / 255


# BasicSR 1.4.2 (SciPy, Matlab-compatible resize) on the rounded Y channel. Its fit counts rounding noise in
# flat areas as texture, which ours does not: astronaut and rocket have such areas.
@pytest.mark.parametrize(
    ("picture", "expected", "tolerance"),
    [
        ("chelsea", 2.62552, 2e-4),
        ("coffee", 4.11533, 2e-4),
        ("astronaut", 3.0916, 0.03),
        ("rocket", 6.9710, 0.005),
    ],
)
def test_reference_values(picture, expected, tolerance):
    assert niqe(as_batch(getattr(skimage.data, picture)())).item() == pytest.approx(expected, abs=tolerance)


def test_unchanged_inputs_of_eval15_score_the_known_value(shared_dir):
    lows = sorted((shared_dir / "data" / "lol_eval15" / "low").iterdir())
    scores = [niqe(as_batch(np.asarray(Image.open(low).convert("RGB")))).item() for low in lows]
    assert len(scores) == 15
    assert sum(scores) / 15 == pytest.approx(6.76, abs=0.005)


def test_noise_and_blur_are_worse_and_a_batch_is_scored_one_by_one():
    good = as_batch(skimage.data.chelsea())[..., :192, :288]
    noisy = (good + 0.1 * torch.randn_like(good)).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(good, 7, stride=1, padding=3)
    scores = niqe(torch.cat((good, noisy, blurred)))
    assert scores[1] > scores[0] + 2 and scores[2] > scores[0] + 2
    assert scores[1].item() == pytest.approx(niqe(noisy).item(), abs=1e-9)


def test_flat_pictures_have_no_score_and_small_ones_are_refused():
    assert niqe(torch.full((1, 3, 192, 192), 0.4)).isnan().all()
    with pytest.raises(ValueError, match="two 96x96 patches"):
        niqe(torch.rand(1, 3, 191, 191))
