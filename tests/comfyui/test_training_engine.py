"""Fine-tuning and saving inside a running ComfyUI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from client import Prompt, Run, Server
from examples import ENHANCE
from safetensors import safe_open

pytestmark = pytest.mark.engine

TUNE = {
    "steps": 10,
    "learning_rate": 1e-3,
    "batch_size": 1,
    "crop_size": 64,
    "consistency": 0.3,
    "contrastive": 0.5,
    "seed": 0,
}


def noise(batch: int = 1, height: int = 80, width: int = 120, level: float = 0.1) -> dict:
    sizes = {"batch": batch, "height": height, "width": width, "channels": 3}
    return {"class_type": "Probe_MakeImage", "inputs": {**sizes, "level": level}}


def load(name: str = "semillie-compact") -> dict:
    return {"class_type": "SemiLLIE_LoadModel", "inputs": {"model_name": name, "dtype": "float32"}}


def described(model: list) -> Prompt:
    """Nodes that enhance a picture with a model and look at the result."""
    return {
        "test": noise(height=64, width=64),
        "enhance": {
            "class_type": "SemiLLIE_Enhance",
            "inputs": {"model": model, "image": ["test", 0], **ENHANCE},
        },
        "look": {"class_type": "Probe_Describe", "inputs": {"value": ["enhance", 0]}},
    }


def look(run: Run) -> dict:
    assert run.status == "execution_success", run.error
    return json.loads(run.ui["look"]["text"][0])


def tuning(**options) -> Prompt:
    return {
        "model": load(),
        "dark": noise(batch=2),
        "tune": {
            "class_type": "SemiLLIE_FineTune",
            "inputs": {"model": ["model", 0], "dark_images": ["dark", 0], **TUNE, **options},
        },
        **described(["tune", 0]),
    }


def test_a_tuned_model_is_saved_listed_and_loaded(server: Server) -> None:
    prompt = tuning()
    prompt["save"] = {
        "class_type": "SemiLLIE_SaveModel",
        "inputs": {"model": ["tune", 0], "filename_prefix": "semillie/mine"},
    }
    prompt["path"] = {"class_type": "PreviewAny", "inputs": {"source": ["save", 0]}}
    prompt["plot"] = {
        "class_type": "LossGraphNode",
        "inputs": {"loss": ["tune", 1], "filename_prefix": "losses"},
    }
    run = server.run(prompt)
    tuned = look(run)
    assert run.progress["tune"][-1] == (10, 10)
    assert run.previews
    assert tuned["sha256"] != look(server.run({"model": load(), **described(["model", 0])}))["sha256"]
    path = Path(run.ui["path"]["text"][0])
    assert path.parent == server.base / "output" / "semillie"
    with safe_open(path, framework="np") as file:
        assert file.metadata()["fine_tuned_from"] == "semillie-compact"
    menu = server.get("/object_info/SemiLLIE_LoadModel")["SemiLLIE_LoadModel"]["input"]["required"][
        "model_name"
    ]
    names = menu[0] if isinstance(menu[0], list) else menu[1]["options"]
    assert path.name in names
    server.forget()
    assert look(server.run({"model": load(path.name), **described(["model", 0])})) == tuned
    # Clearing the output folder must not take the loader with it.
    shutil.rmtree(path.parent)
    server.forget()
    assert look(server.run({"model": load(), **described(["model", 0])}))


@pytest.mark.parametrize("prefix", ["", "semillie/"])
def test_a_model_needs_a_name(server: Server, prefix: str) -> None:
    prompt = {
        "model": load(),
        "save": {
            "class_type": "SemiLLIE_SaveModel",
            "inputs": {"model": ["model", 0], "filename_prefix": prefix},
        },
    }
    run = server.run(prompt)
    assert run.status == "execution_error"
    assert "filename_prefix must end in a name" in run.error


def test_a_cancelled_run_goes_on_and_ends_as_an_unbroken_one(server: Server) -> None:
    def cancel(run: Run) -> None:
        if run.progress["tune"][-1][0] >= 4:
            server.post("/interrupt", {})

    prompt = tuning(seed=1, contrastive=0.0)
    assert server.run(prompt, on_progress=cancel).status == "execution_interrupted"
    run = server.run(prompt)
    first = next(value for value, _ in run.progress["tune"] if value)
    assert 4 < first <= 6
    continued = look(run)
    server.forget()
    for folder in (server.base / "output" / "semillie-training").iterdir():
        (folder / "state.pt").unlink(missing_ok=True)
    assert look(server.run(prompt)) == continued


def test_pairs_teach_their_look(server: Server) -> None:
    prompt = tuning(consistency=0.0)
    prompt["tune"]["inputs"] |= {"pairs_before": ["dark", 0], "pairs_after": ["dark", 0]}
    before = look(server.run({"model": load(), **described(["model", 0])}))
    assert look(server.run(prompt))["mean"] < before["mean"] - 0.1


def test_pairs_that_do_not_match_are_explained(server: Server) -> None:
    prompt = tuning()
    prompt["one"], prompt["small"] = noise(), noise(batch=2, height=64)
    prompt["tune"]["inputs"] |= {"pairs_before": ["dark", 0], "pairs_after": ["one", 0]}
    run = server.run(prompt)
    assert run.status == "execution_error"
    assert "pairs_before has 2 images and pairs_after 1" in run.error
    prompt["tune"]["inputs"]["pairs_after"] = ["small", 0]
    run = server.run(prompt)
    assert "Pair 1" in run.error
    assert "120x80 and 120x64" in run.error
