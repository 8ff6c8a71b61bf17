"""Wheel build hook: compiles the library with the zig C compiler from PyPI, so no system compiler is needed.

``SEMILLIE_NATIVE_TARGET`` names another platform to compile for, e.g. ``x86_64-windows``; see ``TARGETS``.
"""

import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# name: (zig target, wheel platform tag, library suffix)
TARGETS = {
    "x86_64-linux": ("x86_64-linux-gnu.2.17", "manylinux2014_x86_64.manylinux_2_17_x86_64", ".so"),
    "aarch64-linux": ("aarch64-linux-gnu.2.17", "manylinux2014_aarch64.manylinux_2_17_aarch64", ".so"),
    "x86_64-linux-musl": ("x86_64-linux-musl", "musllinux_1_1_x86_64", ".so"),
    "aarch64-linux-musl": ("aarch64-linux-musl", "musllinux_1_1_aarch64", ".so"),
    "x86_64-windows": ("x86_64-windows-gnu", "win_amd64", ".dll"),
    "aarch64-windows": ("aarch64-windows-gnu", "win_arm64", ".dll"),
    "x86_64-macos": ("x86_64-macos.11.0", "macosx_11_0_x86_64", ".dylib"),
    "aarch64-macos": ("aarch64-macos.11.0", "macosx_11_0_arm64", ".dylib"),
}

# Per architecture: zig CPU name and function suffix of each compilation of kernel.c.
INSTRUCTION_SETS = {
    "x86_64": [("x86_64_v2", "base"), ("x86_64_v3", "avx2"), ("x86_64_v4", "avx512")],
    "aarch64": [("generic", "base")],
}

FLAGS = [
    "-O3",
    "-g0",
    "-std=gnu11",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-vectorize",  # the hot loops are vectors already; the others are not worth the code
    "-fno-slp-vectorize",
    "-fno-sanitize=undefined",  # zig's default; it would trap instead of wrap in the exponent arithmetic
    "-Wall",
    "-Wextra",
    "-Werror",
]


def this_machine() -> str:
    """Name in ``TARGETS`` of the platform that runs the build."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    musl = "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "")
    return f"{machine}-{system}{'-musl' if musl else ''}"


def compile_library(source: Path, target: str, output: Path) -> None:
    """Compile ``source`` for ``target`` into the shared library ``output``."""
    triple = TARGETS[target][0]
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", triple]
    flags = FLAGS if "windows" in target else [*FLAGS, "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for cpu, suffix in INSTRUCTION_SETS[target.split("-")[0]]:
            wide = ["-mprefer-vector-width=512"] if suffix == "avx512" else []
            item = str(Path(folder, f"{suffix}.o"))
            command = [*zig, *flags, f"-mcpu={cpu}", *wide, f"-DSEMILLIE_SUFFIX={suffix}"]
            subprocess.run([*command, "-c", str(source / "kernel.c"), "-o", item], check=True)  # noqa: S603
            objects.append(item)
        item = str(Path(folder, "dispatch.o"))
        subprocess.run([*zig, *flags, "-c", str(source / "dispatch.c"), "-o", item], check=True)  # noqa: S603
        built = Path(folder, output.name)
        subprocess.run([*zig, "-shared", "-s", "-o", str(built), *objects, item], check=True)  # noqa: S603
        output.write_bytes(built.read_bytes())


class BuildLibrary(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled library to the wheel and tags the wheel with the platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile for the requested platform."""
        target = os.environ.get("SEMILLIE_NATIVE_TARGET") or this_machine()
        if target not in TARGETS:
            raise ValueError(
                f"No native build for {target!r}. Known: {', '.join(TARGETS)}. "
                "Semi-LLIE works without this package, through plain PyTorch."
            )
        _, tag, suffix = TARGETS[target]
        self.scratch = tempfile.TemporaryDirectory()
        library = Path(self.scratch.name, f"semillie_scan{suffix}")
        compile_library(Path(self.root, "src"), target, library)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{tag}"
        build_data["force_include"][str(library)] = f"semillie_native/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the wheel now contains."""
        self.scratch.cleanup()
