"""Everything that needs a real ComfyUI, from a bare machine, in one command.

    python tests/comfyui/run_engine_tests.py [pytest arguments]

Prepares the engines and their environment (see ``engine.py``), installs Chromium through apt where it is missing and
this user may, and runs the tests marked ``engine`` and ``browser``. Nothing is skipped: what cannot be had fails.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from browser import chromium
from engine import CHANNELS, REPOSITORY, build_comfy_cli, prepare


def ensure_chromium() -> None:
    """Install Chromium if there is none.

    Raises:
        RuntimeError: there is none and it cannot be installed.
    """
    try:
        chromium()
    except RuntimeError:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise
        logging.info("installing chromium")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(
                ["apt-get", "-qq", *arguments], check=True, env=environment, stdout=subprocess.DEVNULL
            )
        chromium()


def main(arguments: list[str]) -> int:
    """Prepare, run, and return pytest's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ensure_chromium()
    engines = [prepare(channel) for channel in CHANNELS]
    build_comfy_cli()
    command = [engines[0].python, "-m", "pytest", "-m", "engine or browser", "--durations=10"]
    # The two versions side by side, each in a process of its own (see conftest.py).
    command += ["-n", str(len(engines)), "--dist", "loadgroup", *arguments]
    if not any((REPOSITORY / argument.split("::")[0]).exists() for argument in arguments):
        command.append("tests/comfyui")
    # The test pictures are so small that threads only wait for each other.
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    return subprocess.run(command, cwd=REPOSITORY, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
