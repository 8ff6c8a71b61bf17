"""Reading RAM checkpoints: which tensors, from which kinds of file, in how little memory."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import atomic_write
from ..weights.checkpoint import CheckpointError
from .config import RAM_PLUS_SWIN_L, RAM_SWIN_L, RAMConfig, Variant
from .descriptor import SemanticModel
from .encoders import RAMEncoder
from .model import INITIAL_REWEIGHT_SCALE, RAM
from .vocabulary import Vocabulary, ram_vocabulary

_SUFFIXES = (".pth", ".pt", ".safetensors")
_IGNORED_PREFIXES = ("tag_encoder.", "text_decoder.")
_IGNORED_SUFFIXES = (".attn_mask", ".relative_position_index", ".position_ids")
_MAPPED_AT_ONCE = 64 * 2**20
_CACHE_NAMES = {torch.float16: "fp16", torch.float32: "fp32"}
_SAFETENSORS_NAMES = {torch.float16: "F16", torch.float32: "F32"}


class RAMFileError(CheckpointError):
    """A file is not the RAM checkpoint it was taken for; the message says what it is instead."""


def find_ram_files(folders: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """List checkpoint files, for a file picker.

    Args:
        folders: Folders to search, with subfolders, in order of precedence (``models/rams`` and whatever
            ``extra_model_paths.yaml`` adds). Missing folders are skipped.

    Returns:
        File name relative to its folder (with ``/``) to path, sorted. A compact copy is left out while its
        original lies beside it, and so are Tag2Text files, which other packs keep in the same folder.
    """
    found: dict[str, Path] = {}
    for folder in map(Path, folders):
        for path in _visible_files(folder):
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() not in _SUFFIXES or name in found or "tag2text" in path.name.lower():
                continue
            if not path.is_file() or _original_of(path) is not None:
                continue
            found[name] = path
    return dict(sorted(found.items()))


def _visible_files(folder: Path) -> Iterator[Path]:
    """The files of a folder and its subfolders, those behind links among them, as ComfyUI lists its models."""
    entered: set[str] = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        # A link may lead back to where it lies.
        entered.add(os.path.realpath(place))
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(Path(place, name)) not in entered
        ]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _original_of(path: Path) -> Path | None:
    for precision in _CACHE_NAMES.values():
        ending = f".{precision}.safetensors"
        if path.name.endswith(ending):
            stem = path.name.removesuffix(ending)
            originals = (path.with_name(stem + suffix) for suffix in (".pth", ".pt"))
            return next((original for original in originals if original.is_file()), None)
    return None


def load_ram(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    expect: Variant | None = None,
    config: RAMConfig | None = None,
    vocabulary: Vocabulary | None = None,
    cache: bool = True,
    check: Callable[[], None] | None = None,
) -> SemanticModel:
    """Load RAM or RAM++ from a published checkpoint or from a compact copy.

    The published files are training checkpoints of which tagging needs a fifth (RAM) to a half (RAM++). The
    first load writes the needed tensors to ``<name>.fp16.safetensors`` (``fp32`` when ``dtype`` is float32,
    so that float32 results stay exact) beside the file; later loads read that copy, as long as the original
    is unchanged. Only tensors are unpickled.

    Args:
        path: ``ram_swin_large_14m.pth``, ``ram_plus_swin_large_14m.pth``, or a ``.safetensors`` file with the
            same tensor names.
        device: Where to put the weights.
        dtype: What to compute in: float32, bfloat16 or float16.
        expect: Insist on this variant; otherwise it is recognised.
        config: Sizes of a model that is not one of the released two.
        vocabulary: Its tags; by default the 4585 tags of the released models.
        cache: Write and use the compact copy.
        check: Called before each tensor is read; an exception it raises stops the work and passes through.

    Returns:
        The model, in eval mode, its parameters frozen.

    Raises:
        RAMFileError: The file is missing, truncated, of the other variant, or something else altogether.
        ValueError: ``dtype`` is not supported, or ``vocabulary`` does not fit the model.
    """
    path = Path(path)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"RAM computes in float32, bfloat16 or float16, got {dtype}.")
    options = (path, config, expect, vocabulary, device, dtype, check)
    if not cache or not path.is_file() or path.suffix.lower() == ".safetensors":
        return _build(_open(path), *options)

    stored = torch.float32 if dtype == torch.float32 else torch.float16
    copy = path.with_name(f"{path.stem}.{_CACHE_NAMES[stored]}.safetensors")
    status = path.stat()
    stamp = {
        "source": path.name,
        "source_bytes": str(status.st_size),
        "source_mtime_ns": str(status.st_mtime_ns),
    }
    if not _is_current(copy, stamp):
        source = _open(path)
        _, origin = _plan(source, config, expect)
        try:
            _write_compact(source, origin, copy, stored, stamp, check)
        except OSError as error:
            warnings.warn(
                f"Could not write the compact copy {copy.name} ({error}): loading {path.name} stays slow.",
                stacklevel=2,
            )
            return _build(source, *options)
        del source  # a file in the legacy format is held in memory
    return _build(_open(copy), *options)


class _SafetensorsSource:
    """Tensors of a safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                names = list(file.keys())
                self.shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise RAMFileError(
                f"{path.name} is damaged, most likely truncated by an interrupted download or copy "
                f"({error}). Delete it and fetch it again."
            ) from error

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors; each is only valid until the next one is asked for."""
        for group in _groups(names, self.shapes):
            with safe_open(self.path, framework="pt") as file:
                for name in group:
                    yield name, file.get_tensor(name)


class _TorchSource:
    """Tensors of a ``torch.save`` checkpoint, memory-mapped where the format allows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state: dict[str, Tensor] | None = None
        state = self._load()
        self.shapes = {name: tensor.shape for name, tensor in state.items()}
        if not zipfile.is_zipfile(path):
            # The legacy format cannot be mapped: the file is in memory now and is used up from there.
            self._state = state

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors; each is only valid until the next one is asked for."""
        for group in _groups(names, self.shapes):
            # A fresh mapping per group: pages already copied stop counting as this process's memory.
            state = self._load() if self._state is None else self._state
            for name in group:
                yield name, state[name]
            del state

    def _load(self) -> dict[str, Tensor]:
        path = self.path
        mapped = zipfile.is_zipfile(path)
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # a broken pickle can fail in any way
            if "allocate memory" in str(error):
                raise
            forbidden = re.search(r"GLOBAL (\S+)", str(error))
            if forbidden:
                raise RAMFileError(
                    f"{path.name} is not a plain weights file: it holds {forbidden[1]} objects, not "
                    "loaded because unpickling them could run code."
                ) from error
            raise RAMFileError(
                f"{path.name} is damaged ({path.stat().st_size:,} bytes), most likely truncated by an "
                "interrupted download or copy. Delete it and fetch it again."
            ) from error
        if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
            content = content["model"]
        tensors = {
            str(name).removeprefix("module.").replace("vision_multi", "tagging_head"): value
            for name, value in (content.items() if isinstance(content, Mapping) else ())
            if isinstance(value, Tensor)
        }
        if not tensors:
            raise RAMFileError(f"{path.name} holds no named tensors, so it is not a RAM checkpoint.")
        return tensors


_Source = _SafetensorsSource | _TorchSource


def _groups(names: Iterable[str], shapes: Mapping[str, torch.Size]) -> Iterator[list[str]]:
    """Split names into runs of about ``_MAPPED_AT_ONCE`` bytes, the largest first, while memory is free."""
    group: list[str] = []
    size = 0
    for name in sorted(names, key=lambda name: -shapes[name].numel()):
        nbytes = 4 * shapes[name].numel()
        if group and size + nbytes > _MAPPED_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(name)
        size += nbytes
    if group:
        yield group


def _open(path: Path) -> _Source:
    if not path.is_file():
        raise RAMFileError(
            f"There is no file {path}. Put the checkpoint there, or download it (download_ram)."
        )
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(256)
    if not size:
        raise RAMFileError(
            f"{path.name} is empty: the download or copy failed. Delete it and fetch it again."
        )
    # First: the length before a safetensors header may begin with any bytes, those of other formats among them.
    if head[8:9] == b"{":
        return _SafetensorsSource(path)
    if head.startswith(b"version https://git-lfs"):
        raise RAMFileError(
            f"{path.name} is a Git LFS pointer, not the weights: fetch the real file (git lfs pull)."
        )
    if head.lstrip()[:1] == b"<":
        raise RAMFileError(
            f"{path.name} is a web page, not weights: the link led to a page instead of the file."
        )
    # As a tar archive, PyTorch's oldest format, a file can run code in torch 2.5 in spite of weights_only.
    if head.startswith((b"PK\x03\x04", b"\x80")) and not tarfile.is_tarfile(path):
        if head.startswith(b"PK") and not zipfile.is_zipfile(path):
            raise RAMFileError(
                f"{path.name} is truncated ({size:,} bytes): the download or copy was interrupted. The "
                "released files have about 5.6 GB (RAM) and 3.0 GB (RAM++). Delete it and fetch it again."
            )
        return _TorchSource(path)
    raise RAMFileError(
        f"{path.name} is neither a PyTorch checkpoint nor a safetensors file (it begins with {head[:8]!r})."
    )


def _plan(
    source: _Source, config: RAMConfig | None, expect: Variant | None
) -> tuple[RAMConfig, dict[str, str]]:
    """Recognise the model and map every tensor it needs to the tensor of the file that supplies it."""
    shapes, file = source.shapes, source.path.name
    rows = shapes["label_embed"][0] if len(shapes.get("label_embed", ())) == 2 else 0
    if config is None:
        config = next(
            (
                known
                for known in (RAM_SWIN_L, RAM_PLUS_SWIN_L)
                if known.num_tags * known.descriptions_per_tag == rows
            ),
            None,
        )
    if config is None or not rows:
        raise RAMFileError(f"{file} is not a RAM or RAM++ checkpoint: {_describe(shapes)}.")
    if expect is not None and config.variant != expect:
        wanted = "RAM++" if expect == "ram_plus" else "RAM"
        raise RAMFileError(
            f"{file} is {config.display_name}, but {wanted} was asked for: choose the other file."
        )
    expected_rows = config.num_tags * config.descriptions_per_tag
    if rows != expected_rows:
        raise RAMFileError(
            f"{file} has {rows} text embeddings; {config.display_name} of these sizes has {expected_rows}."
        )

    with torch.device("meta"):
        needed = {name: tensor.shape for name, tensor in RAM(config).state_dict().items()}
    origin: dict[str, str] = {}
    for name in needed:
        # RAM ties its decoder to the tag encoder of the captioning branch; a file may hold either name.
        tied = name.replace("tagging_head.", "tag_encoder.", 1)
        if name in shapes or tied in shapes:
            origin[name] = name if name in shapes else tied
    missing = sorted(set(needed) - set(origin) - {"reweight_scale"})
    unexpected = sorted(
        name
        for name in set(shapes) - set(origin.values())
        if not name.startswith(_IGNORED_PREFIXES) and not name.endswith(_IGNORED_SUFFIXES)
    )
    misshapen = [
        f"{name} {tuple(shapes[key])} instead of {tuple(needed[name])}"
        for name, key in origin.items()
        if shapes[key] != needed[name]
    ]
    if missing or unexpected or misshapen:
        raise RAMFileError(
            f"{file} looks like {config.display_name} but does not fit it."
            + _listing("Missing", missing)
            + _listing("Unexpected", unexpected)
            + _listing("Wrong shape", misshapen)
        )
    return config, origin


def _describe(shapes: Mapping[str, torch.Size]) -> str:
    """Best guess, for a person, at what a file with these tensors is."""
    embedding = shapes.get("label_embed", shapes.get("label_embed.weight"))
    if "label_embed.weight" in shapes or (embedding is not None and embedding[0] == 3429):
        return "it is a Tag2Text checkpoint, the predecessor with 3429 tags"
    if embedding is not None:
        return f"it has {embedding[0]} text embeddings; RAM has 4585 and RAM++ 233835"
    if "patch_embed.proj.weight" in shapes and "layers.0.blocks.0.attn.qkv.weight" in shapes:
        return "it is a bare Swin Transformer, without RAM's tag decoder"
    if any("visual_encoder." in name for name in shapes):
        return (
            "it has an image encoder but no tag embeddings (label_embed); it may be a captioning model (BLIP)"
        )
    if any(
        name.startswith(("model.diffusion_model.", "first_stage_model.", "double_blocks.")) for name in shapes
    ):
        return "it is an image generation model"
    return "its tensors are called " + ", ".join(sorted(shapes)[:3]) + ", …"


def _listing(title: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" {title} ({len(names)}): {', '.join(names[:5])}{more}."


def _converted(
    source: _Source,
    origin: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device | str,
    check: Callable[[], None] | None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield each needed tensor as an independent, finite copy."""
    names = {key: name for name, key in origin.items()}
    for key, tensor in source.read(names):
        if check is not None:
            check()
        copy = torch.empty(tensor.shape, dtype=dtype, device=device).copy_(tensor)
        if not all(math.isfinite(float(extreme)) for extreme in torch.aminmax(copy)):
            raise RAMFileError(
                f"{source.path.name} is damaged: {key} holds values that are not finite in {dtype}."
            )
        yield names[key], copy


def _build(
    source: _Source,
    path: Path,
    config: RAMConfig | None,
    expect: Variant | None,
    vocabulary: Vocabulary | None,
    device: torch.device | str,
    dtype: torch.dtype,
    check: Callable[[], None] | None,
) -> SemanticModel:
    config, origin = _plan(source, config, expect)
    vocabulary = vocabulary or ram_vocabulary()
    if len(vocabulary) != config.num_tags:
        raise ValueError(f"The vocabulary names {len(vocabulary)} tags, the model has {config.num_tags}.")
    with torch.device("meta"):
        network = RAM(config)
    state = dict(_converted(source, origin, dtype, device, check))
    if config.variant == "ram_plus" and "reweight_scale" not in state:
        state["reweight_scale"] = torch.tensor(INITIAL_REWEIGHT_SCALE, dtype=dtype, device=device)
    network.load_state_dict(state, assign=True)
    return SemanticModel(
        encoder=RAMEncoder(network),
        name=path.stem,
        architecture=config.display_name,
        vocabulary=vocabulary,
        provenance={"file": path.name, "license": "Apache-2.0 (recognize-anything)"},
    )


def _is_current(copy: Path, stamp: Mapping[str, str]) -> bool:
    if not copy.is_file():
        return False
    try:
        metadata = _SafetensorsSource(copy).metadata
    except RAMFileError:
        return False
    return all(metadata.get(key) == value for key, value in stamp.items())


def _write_compact(
    source: _Source,
    origin: Mapping[str, str],
    copy: Path,
    dtype: torch.dtype,
    stamp: Mapping[str, str],
    check: Callable[[], None] | None,
) -> None:
    """Write the needed tensors to a safetensors file, one at a time, and put it in place when it is complete.

    The safetensors library's writer would hold a second copy of everything.
    """
    header: dict[str, Any] = {"__metadata__": dict(stamp)}
    end = 0
    for name, key in origin.items():
        shape, begin = source.shapes[key], end
        end += shape.numel() * dtype.itemsize
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(copy) as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        start = stream.tell()
        for name, tensor in _converted(source, origin, dtype, "cpu", check):
            stream.seek(start + header[name]["data_offsets"][0])
            stream.write(tensor.numpy().data)
