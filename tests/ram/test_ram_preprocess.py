"""What the encoder sees is what PIL would have made of the photo."""

import numpy as np
import pytest
import torch
from PIL import Image

from semillie_core.ram.preprocess import as_rgb, normalise, resize_like_pil


@pytest.mark.parametrize(
    "shape", [(150, 201), (1000, 700), (384, 384), (383, 385), (90, 2000), (3, 1000), (1, 1)]
)
def test_resizing_agrees_with_pil_to_one_level(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    photo = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    photo[: shape[0] // 2] = photo[:1, :1]
    expected = np.asarray(
        Image.fromarray(photo).resize((384, 384), Image.Resampling.BILINEAR), dtype=np.float32
    )
    resized = resize_like_pil(torch.from_numpy(photo).movedim(-1, 0)[None].float() / 255, 384)
    difference = np.abs(resized[0].movedim(0, -1).numpy() * 255 - expected)
    assert difference.max() <= 1.0 + 1e-3


def test_the_fixture_photos_are_preprocessed_as_officially(parity) -> None:
    from semillie_core.ram.preprocess import IMAGENET_MEAN, IMAGENET_STD

    _, tensors = parity("ram_parity_a")
    for i in (0, 1):
        raw = tensors[f"in.raw{i}_u8"].movedim(-1, 0)[None].float() / 255
        ours = normalise(resize_like_pil(raw, 128), IMAGENET_MEAN, IMAGENET_STD)
        tolerance = (1.001 / 255) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
        assert ((ours[0] - tensors["in.image"][i]).abs() <= tolerance).all()


def test_resizing_is_differentiable() -> None:
    image = torch.rand(1, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normalise(resize_like_pil(x, 4), (0.5,) * 3, (0.2,) * 3), image)


def test_channels() -> None:
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(as_rgb(grey), grey.repeat(1, 3, 1, 1))
    rgba = torch.rand(2, 4, 4, 4)
    assert torch.equal(as_rgb(rgba), rgba[:, :3])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 8, 8), r"\(B, C, H, W\)"),
        (torch.zeros(1, 8, 8, 3), r"movedim"),
        (torch.zeros(1, 2, 8, 8), "1, 3 or 4 channels"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "Divide 8-bit values by 255"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN"),
        (torch.full((1, 3, 8, 8), float("inf")), "infinite"),
        (torch.full((1, 3, 8, 8), 255.0), "255"),
        (torch.zeros(0, 3, 8, 8), "empty"),
        (torch.zeros(1, 3, 0, 8), "empty"),
    ],
)
def test_bad_images_are_refused_with_a_remedy(image: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_rgb(image)
