"""Reading and writing checkpoints.

Two formats are read. Ours is safetensors with string metadata (:data:`FORMAT`, the network's config, provenance).
The released code's is a ``torch.save`` dictionary ``{"arch", "epoch", "state_dict", "optimizer_dict"}`` whose keys
carry a ``module.`` prefix; it, bare state dictionaries and this project's training states are read with
``weights_only=True``, so no file can run code.
"""

from __future__ import annotations

import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..files import atomic_write
from ..network import SemiLLIE, SemiLLIEConfig
from .bundled import bundled_models
from .descriptor import SemiLLIEModel

FORMAT = "semi-llie/1"
_OPTIONAL_PREFIX = "get_gradient."
_WRAPPER_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
"""Of ``DataParallel`` and of ``torch.compile``."""
_PARTS = ("state_dict", "teacher", "student")
"""Where a ``torch.save`` dictionary may hold weights: the released code's entry, then those of a training state."""
_BLOCK_KEY = re.compile(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.")
_EXPECTED = (
    "Expected a Semi-LLIE checkpoint: a .safetensors file of this project, or a .pth file saved by the released "
    "Semi-LLIE code."
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, what is wrong and what was expected."""


class Content(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    """The weights, as the file names them."""
    metadata: dict[str, str]
    """What it says about them."""
    left_out: tuple[str, ...]
    """Entries that are not these weights, such as the optimiser's state."""


def load_model(name_or_path: str | Path, *, part: str | None = None) -> SemiLLIEModel:
    """Load a bundled model by name or any Semi-LLIE checkpoint by path.

    The architecture is inferred from the tensors; metadata adds what shapes cannot tell.

    Args:
        name_or_path: A name from :func:`bundled_models`, or a file.
        part: Which weights of a training state: ``"teacher"`` (the default) or ``"student"``.

    Returns:
        The descriptor, on the CPU in float32, in evaluation mode with frozen parameters.

    Raises:
        CheckpointError: There is no such model or file, or it is truncated, foreign or of an unknown kind.
    """
    path = resolve(name_or_path)
    return build_model(path, read(path, part))


def build_model(path: Path, content: Content) -> SemiLLIEModel:
    """The descriptor of what :func:`read` found in a file.

    Raises:
        CheckpointError: These are not the weights of a Semi-LLIE network.
    """
    metadata = content.metadata
    state = _normalise_keys(content.tensors, path)
    config = _infer_config(state, metadata, path)
    with torch.device("meta"):  # A few numbers in a file may describe a network larger than memory.
        expected = SemiLLIE(config).state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    missing = [key for key in missing if not key.startswith(_OPTIONAL_PREFIX)]
    if missing or unexpected:
        raise CheckpointError(
            f"{path} is not a complete {config.variant} Semi-LLIE checkpoint: "
            + "; ".join(
                f"{len(keys)} {what} (first: {keys[0]})"
                for what, keys in (("tensors missing", missing), ("tensors unknown", unexpected))
                if keys
            )
            + "."
        )
    wrong = [key for key in state if state[key].shape != expected[key].shape]
    if wrong:
        raise CheckpointError(
            f"{path}: tensor {wrong[0]} has shape {tuple(state[wrong[0]].shape)}, "
            f"expected {tuple(expected[wrong[0]].shape)} for this {config.variant} network."
        )
    network = SemiLLIE(config)
    network.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    network.eval().requires_grad_(False)
    name = next((name for name, file in bundled_models().items() if file == path), path.stem)
    return SemiLLIEModel(network, name, {"file": str(path), **metadata})


def save_model(path: str | Path, network: SemiLLIE, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network as safetensors, atomically.

    Args:
        path: File to write; replaced as a whole or not at all.
        network: The network; its config goes into the metadata.
        metadata: Provenance: training run, data, licence, hash of the training config. That of a loaded model may be
            given as it is; the ``file`` it came from is left out.
    """
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    payload = safetensors.torch.save(
        tensors,
        {
            **{key: text for key, text in (metadata or {}).items() if key != "file"},
            "format": FORMAT,
            "config": json.dumps(network.config.to_dict(), sort_keys=True),
        },
    )
    with atomic_write(path) as file:
        file.write(payload)


def resolve(name_or_path: str | Path) -> Path:
    """The file of a bundled model, or the file itself.

    Raises:
        CheckpointError: There is none.
    """
    bundled = bundled_models()
    if isinstance(name_or_path, str) and name_or_path in bundled:
        return bundled[name_or_path]
    path = Path(name_or_path)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # A folder above must not be looked into.
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if is_folder:
        raise CheckpointError(f"{path} is a folder. {_EXPECTED}")
    if not is_file:
        known = ", ".join(bundled) or "none"
        raise CheckpointError(f"There is no model or file {str(name_or_path)!r}. Bundled models: {known}.")
    return path


def read(path: Path, part: str | None = None) -> Content:
    """Read a checkpoint of any kind without running code.

    Args:
        path: The file.
        part: As for :func:`load_model`.

    Raises:
        CheckpointError: The file cannot be read, is truncated or foreign, or lacks that part.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(head) < 16:
        raise CheckpointError(f"{path} is empty or truncated ({len(head)} bytes). {_EXPECTED}")
    # The length before a safetensors header may begin with any bytes, "PK" among them; a zip has no "{" there.
    if head[8:9] == b"{":
        if part is not None:
            raise CheckpointError(f"{path} holds one network only: leave {part!r} out.")
        return _read_safetensors(path)
    # As a tar archive, PyTorch's oldest format, a file can run code in torch 2.5 in spite of weights_only.
    if (head[:2] == b"PK" or head[:1] == b"\x80") and not tarfile.is_tarfile(path):
        return _read_torch(path, part)
    raise CheckpointError(f"{path} is neither a safetensors nor a PyTorch file. {_EXPECTED}")


def _read_safetensors(path: Path) -> Content:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}. {_EXPECTED}") from error
    return Content(tensors, metadata, ())


def _read_torch(path: Path, part: str | None) -> Content:
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > size:
                    raise ValueError("it is compressed, which PyTorch's files are not")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and was not loaded, because such files can run code; or it is "
            f"damaged. {_EXPECTED}"
        ) from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # A broken pickle can fail in any way.
        raise CheckpointError(f"{path} is truncated or damaged: {error}. {_EXPECTED}") from error
    metadata = {"format": "released Semi-LLIE code"}
    left_out: tuple[str, ...] = ()
    parts = [p for p in _PARTS if isinstance(content, Mapping) and isinstance(content.get(p), Mapping)]
    if part is not None and part not in parts:
        held = ", ".join(parts) or "a bare network"
        raise CheckpointError(f"{path} holds no {part!r}, but {held}.")
    if parts:
        chosen = part or parts[0]
        if chosen != "state_dict":
            metadata["format"] = f"{chosen} of a training state"
        for key, name in (("epoch", "epoch"), ("step", "step"), ("config_sha256", "training_config_sha256")):
            if isinstance(content.get(key), int | str):
                metadata[name] = str(content[key])
        metadata |= _network_of_training(content.get("config"))
        left_out = tuple(str(key) for key in content if key != chosen)
        content = content[chosen]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise CheckpointError(f"{path} holds no state dictionary. {_EXPECTED}")
    return Content(dict(content), metadata, left_out)


def _network_of_training(config: object) -> dict[str, str]:
    """What the shapes of tensors do not tell, from the config in a training state of this project."""
    try:
        network = json.loads(config)["network"] if isinstance(config, str) else None
    except (ValueError, KeyError, TypeError):
        return {}
    return {"config": json.dumps(network)} if isinstance(network, dict) else {}


def _normalise_keys(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    state = {_WRAPPER_PREFIXES.sub("", key, count=1): value for key, value in state.items()}
    if "conv_first.weight" not in state or not any(_BLOCK_KEY.match(key) for key in state):
        sample = ", ".join(list(state)[:3])
        raise CheckpointError(f"{path} belongs to another network (it holds {sample}, ...). {_EXPECTED}")
    return state


def _infer_config(state: dict[str, Tensor], metadata: dict[str, str], path: Path) -> SemiLLIEConfig:
    block = "layers.0.residual_group.blocks.0."
    try:
        embed_dim = state["patch_embed.norm.weight"].shape[0]
        d_inner = state[f"{block}self_attention.in_proj.weight"].shape[0] // 2
        d_state = state[f"{block}self_attention.A_logs"].shape[1]
        folded = state["conv_first.weight"].shape[1]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path} lacks {error} or holds it in another shape. {_EXPECTED}") from error
    positions = {tuple(map(int, found.groups())) for key in state if (found := _BLOCK_KEY.match(key))}
    # Every group has a block: no number in a file makes more of them than it has tensors.
    groups = len({group for group, _ in positions})
    options: dict[str, object] = {
        "embed_dim": embed_dim,
        "depths": tuple(sum(group == g for group, _ in positions) for g in range(groups)),
        "d_state": d_state,
        "expand": d_inner / max(embed_dim, 1),
        "multi_scale": f"{block}self_attention.conv2d_55.weight" in state,
        "guided": f"{block}fuse.pwconv.weight" in state,
        "downscale": round((folded / 6) ** 0.5),
    }
    # Shapes cannot tell these, or not always; everything else is taken from the tensors themselves.
    untold: dict[str, object] = {}
    has_thumbnail = "estimator.local_gain.weight" in state
    if has_thumbnail:
        untold["thumbnail"] = 64
        options["thumbnail_depth"] = len(
            {key.split(".")[3] for key in state if key.startswith("estimator.body.blocks.")}
        )
    try:
        declared = json.loads(metadata.get("config", "{}"))
        for key in ("drop_path_rate", "thumbnail" if has_thumbnail else "thumbnail_depth"):
            if key in declared:
                untold[key] = declared[key]
        config = SemiLLIEConfig.from_dict(untold | options)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} describes an impossible network: {error} {_EXPECTED}") from error
    return config
