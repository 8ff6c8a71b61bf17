"""Where model files live: ``models/semillie`` and ``models/rams``, plus ``extra_model_paths.yaml``."""

from __future__ import annotations

from pathlib import Path

import folder_paths

SEMILLIE = "semillie"
RAM = "rams"
SUFFIXES = frozenset({".safetensors", ".pth", ".pt"})


def register() -> None:
    """Tell ComfyUI about the folders.

    Entries that the user's ``extra_model_paths.yaml`` made under the same names stay, and stay first. What Save
    Semi-LLIE Model writes is found where it is, as with ComfyUI's own saving nodes.
    """
    for kind in (SEMILLIE, RAM):
        folder_paths.add_model_folder_path(kind, str(default_folder(kind)))
        # A kind that add_model_folder_path created lists every file; only checkpoints belong in a menu.
        folder_paths.folder_names_and_paths[kind][1].update(SUFFIXES)
    folder_paths.add_model_folder_path(SEMILLIE, str(output_folder() / SEMILLIE))


def output_folder() -> Path:
    """Where ComfyUI puts results."""
    return Path(folder_paths.get_output_directory())


def default_folder(kind: str) -> Path:
    """Folder for files of a kind unless the user set another."""
    return Path(folder_paths.models_dir) / kind


def all_folders(kind: str) -> list[Path]:
    """Every folder that may hold files of a kind, in order of precedence."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def names(kind: str) -> list[str]:
    """Files that can be picked, relative to their folder."""
    try:
        return list(folder_paths.get_filename_list(kind))
    except FileNotFoundError:
        # ComfyUI remembers a folder that is no longer there, such as a cleared output folder, and stumbles over it.
        folder_paths.filename_list_cache.pop(kind, None)
        return list(folder_paths.get_filename_list(kind))


def resolve(kind: str, name: str) -> Path:
    """Path of a picked file. Names come from outside: only files inside the kind's folders are found.

    Raises:
        ValueError: there is no such file; the message says where to put it.
    """
    found = folder_paths.get_full_path(kind, name)
    if found is None:
        raise not_found(kind, name)
    return Path(found)


def not_found(kind: str, name: str) -> ValueError:
    """Build the error for a picked file that is not there."""
    return ValueError(
        f"There is no file {name!r} in {default_folder(kind)}. Put it there (or in a '{kind}' folder of "
        "extra_model_paths.yaml), press R in ComfyUI to refresh the list, and pick it again."
    )


def state_of(path: Path) -> str:
    """Text that changes when the file is replaced; ComfyUI runs a loader again when its text changes."""
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"
