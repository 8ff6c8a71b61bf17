"""Set up Semi-LLIE in a virtual environment of its own and run it.

    python3 run.py                    enhance the sample photos into results/
    python3 run.py demo PHOTO...      the same, and your own photos with them
    python3 run.py enhance PHOTO...   the command line (see: python3 run.py enhance --help)
    python3 run.py test               run the tests

The first call installs into .venv beside this file; later calls need no network.
"""

import hashlib
import os
import subprocess
import sys

MINIMUM = (3, 10)
ROOT = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
# This file has to parse and speak on every Python a machine may start it with.
if sys.version_info < MINIMUM:
    sys.exit(
        "Semi-LLIE needs Python {}.{} or newer; this is {}.".format(*MINIMUM, sys.version.split()[0])  # noqa: UP032
    )

from pathlib import Path  # noqa: E402

VENV = Path(ROOT) / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(extras: str) -> str:
    """What an installation depends on, as one hash."""
    digest = hashlib.sha256(f"{extras} {sys.version_info[:2]}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((Path(ROOT) / name).read_bytes())
    return digest.hexdigest()


def install(extras: str) -> None:
    """Make the virtual environment and install into it, unless that has been done."""
    stamp = VENV / f"installed-{extras}"
    wanted = fingerprint(extras)
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    if not PYTHON.exists():
        print(f"Making a virtual environment in {VENV} ...", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False).returncode:
            sys.exit(
                "Python could not make a virtual environment. On Debian and Ubuntu install it with: "
                "apt install python3-venv"
            )
    print(f"Installing semi-llie[{extras}] (once; PyTorch is large) ...", flush=True)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", str(Path(ROOT) / "constraints.txt"), "-e", f"{ROOT}[{extras}]"]
    if subprocess.run(command, check=False).returncode:
        sys.exit("pip could not install the packages (see above). Check the network and run this again.")
    stamp.write_text(wanted)


def main() -> int:
    """Install what the command needs and run it; returns its exit status."""
    arguments = sys.argv[1:] or ["demo"]
    if arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        if arguments[0] == "test":
            install("dev")
            return subprocess.run([str(PYTHON), "-m", "pytest", *arguments[1:]], cwd=ROOT, check=False).returncode
        install("cli")
        return subprocess.run([str(PYTHON), "-m", "semillie_core.cli", *arguments], check=False).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
