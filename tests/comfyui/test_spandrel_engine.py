"""Training of architectures that the real spandrel, one of ComfyUI's requirements, recognises."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from semillie_core.data import DataConfig, SourceConfig, UnpairedConfig
from semillie_core.training import Phase, TrainConfig, train

pytestmark = pytest.mark.engine


def networks():
    from spandrel.architectures.NAFNet import NAFNet
    from spandrel.architectures.RetinexFormer import RetinexFormer

    return {
        "NAFNet": NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
        "RetinexFormer": RetinexFormer(n_feat=16, stage=1, num_blocks=[1, 1, 1]),
    }


@pytest.mark.parametrize("name", ["NAFNet", "RetinexFormer"])
def test_a_mean_teacher_of_a_real_architecture_is_exported_for_spandrel(name, tmp_path):
    import spandrel

    generator = torch.Generator().manual_seed(0)
    for kind, divisor in (("high", 1), ("low", 6), ("night", 5)):
        (tmp_path / kind).mkdir()
        for index in range(3):
            pixels = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8, generator=generator) // divisor
            Image.fromarray(pixels.numpy()).save(tmp_path / kind / f"{index}.png")
    torch.manual_seed(0)
    start = networks()[name].state_dict()
    torch.save(start, tmp_path / "start.pth")
    config = TrainConfig(
        run_dir=str(tmp_path / "run"),
        spandrel=str(tmp_path / "start.pth"),
        data=DataConfig(
            sources=(SourceConfig(str(tmp_path / "low"), str(tmp_path / "high")),),
            unpaired=(UnpairedConfig(str(tmp_path / "night")),),
        ),
        phases=(Phase(2, 2, 32, 2),),
    )
    result = train(config)
    found = spandrel.ModelLoader().load_from_file(result.last)
    assert found.architecture.name == name
    trained = found.model.state_dict()
    assert any(not torch.equal(trained[key], value) for key, value in start.items())
    with torch.inference_mode():
        assert found(torch.rand(1, 3, 50, 70)).shape == (1, 3, 50, 70)
