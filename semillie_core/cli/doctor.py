"""``semillie doctor``: is everything in order on this machine?"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

_PACKAGES = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "pyvips", "av", "tqdm")
_OPTIONAL_PACKAGES = ("pillow_heif", "rawpy")
"""For photos of formats that not everyone has."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation: versions, devices, scan backends, weights",
        description="Report versions, devices, scan backends and whether the bundled weights are intact. Paste the "
        "report into bug reports. Exit status: 0, or 1 if something needs fixing.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    from .. import __version__

    print(f"semi-llie {__version__}, Python {platform.python_version()}, {platform.platform()}")
    problems = _packages()
    _devices()
    _backends()
    problems += _weights()
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(problems)} to fix." if problems else "Everything is in order.")
    return 1 if problems else 0


def _packages() -> list[str]:
    from ..image_io import PhotoError, load_vips
    from ..video_io import VideoError, load_av

    print("Packages:")
    for name in (*_PACKAGES, *_OPTIONAL_PACKAGES):
        try:
            print(f"  {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name}: not installed{' (optional)' * (name in _OPTIONAL_PACKAGES)}")
    problems = []
    try:
        vips = load_vips()
        print(f"  libvips {'.'.join(str(vips.version(part)) for part in range(3))}")
    except PhotoError as error:
        problems.append(str(error))
    try:
        print(f"  FFmpeg {load_av().ffmpeg_version_info}")
    except VideoError as error:
        problems.append(str(error))
    return problems


def _devices() -> None:
    import torch

    print("Devices:")
    print(f"  cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        print(f"  cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    if torch.backends.mps.is_available():
        print("  mps")
    for index in range(torch.xpu.device_count()):
        intel = torch.xpu.get_device_properties(index)
        print(f"  xpu:{index}: {intel.name}, {intel.total_memory / 2**30:.1f} GiB")


def _backends() -> None:
    from ..scan import available_backends

    print("Selective scan, best first:")
    for name, reason in available_backends().items():
        print(f"  {name}: {'available' if reason is None else f'not available ({reason})'}")


def _weights() -> list[str]:
    from ..weights import CheckpointError, bundled_models, file_sha256, load_model
    from ..weights.bundled import BUNDLED_FOLDER

    print("Bundled weights:")
    sums = BUNDLED_FOLDER / "SHA256SUMS"
    if not sums.is_file():
        return [f"{sums} is missing: no weights ship with this copy."]
    lines = sums.read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
    problems = []
    for name, path in bundled_models().items():
        if expected.pop(path.name, None) != file_sha256(path):
            problems.append(f"{path} is not the file that was published. Install Semi-LLIE again.")
            continue
        try:
            model = load_model(name)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        print(f"  {name}: {model.variant}, {model.parameter_count:,} parameters, intact")
    return problems + [f"{BUNDLED_FOLDER / name} is missing. Install Semi-LLIE again." for name in expected]
