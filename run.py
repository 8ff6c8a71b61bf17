"""Set up Semi-LLIE in a virtual environment of its own and run it.

    python3 run.py                    enhance the sample photos into results/
    python3 run.py demo PHOTO...      the same, and your own photos with them
    python3 run.py enhance PHOTO...   the command line (see: python3 run.py enhance --help)
    python3 run.py video VIDEO...     the same for videos
    python3 run.py test               run the tests, one process per core (arguments go to pytest)

The first call installs into .venv beside this file; later calls need no network.
"""

import sys

MINIMUM = (3, 10)
# The file has to parse and speak on every Python 3 that a machine may start it with.
if sys.version_info < MINIMUM:
    sys.exit("Semi-LLIE needs Python %d.%d or newer; this is %s." % (*MINIMUM, sys.version.split()[0]))  # noqa: UP031

import hashlib  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CONTAINED_IN = {"cli": ("cli", "dev"), "dev": ("dev",)}


def run(*command: object, quiet: bool = False) -> int:
    """Run a program to its end; returns its exit status."""
    output = subprocess.DEVNULL if quiet else None
    return subprocess.call([str(part) for part in command], stdout=output, stderr=output)


def fingerprint(extras: str) -> str:
    """What an installation depends on, as one hash."""
    digest = hashlib.sha256(f"{extras} {sys.version_info[:2]}".encode())
    native = [p for p in sorted((ROOT / "native").rglob("*")) if p.suffix in (".c", ".h", ".py", ".toml")]
    for path in (ROOT / "pyproject.toml", ROOT / "constraints.txt", *native):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stamp(extras: str) -> Path:
    """The file that says an installation is complete."""
    return VENV / f"installed-{extras}"


def is_installed(extras: str) -> bool:
    """Whether the environment has everything."""
    return PYTHON.exists() and any(
        stamp(larger).is_file() and stamp(larger).read_text() == fingerprint(larger)
        for larger in CONTAINED_IN[extras]
    )


def make_environment() -> None:
    """Make the virtual environment, unless there is a sound one of this Python version."""
    check = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if PYTHON.exists() and run(PYTHON, "-c", check, quiet=True) == 0:
        return
    print(f"Making a virtual environment in {VENV} ...", flush=True)
    if run(sys.executable, "-m", "venv", "--clear", VENV) != 0:
        sys.exit(
            "Python could not make a virtual environment. On Debian and Ubuntu its module is a package of its own: "
            "apt install python3-venv. Then run this again."
        )


def install(extras: str) -> None:
    """Install into the virtual environment, unless that has been done."""
    if is_installed(extras):
        return
    make_environment()
    print(f"Installing semi-llie[{extras}] (once; PyTorch is large, this can take minutes) ...", flush=True)
    pip = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    if run(*pip, "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[{extras}]") != 0:
        sys.exit(
            "pip could not install the packages; it says why above. Most often the network is to blame: check it, then "
            "run this again."
        )
    # A faster scan for the CPU, compiled here; where that does not work, plain PyTorch does the same.
    if run(*pip, ROOT / "native", quiet=True) != 0:
        print(
            "The compiled CPU scan could not be built here; the slower one in plain PyTorch is used.",
            flush=True,
        )
    stamp(extras).write_text(fingerprint(extras))


def main() -> int:
    """Install what the command needs and run it; returns its exit status."""
    arguments = sys.argv[1:] or ["demo"]
    if arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        install("dev" if arguments[0] == "test" else "cli")
    except KeyboardInterrupt:
        return 130
    # Ctrl-C reaches the program, too, which tidies up; until it has, this one waits.
    signal.signal(signal.SIGINT, lambda *_: None)
    if arguments[0] == "test":
        os.chdir(ROOT)
        # A process per core, each of which computes on one thread.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        parallel = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")
        return run(PYTHON, "-m", "pytest", *parallel, *arguments[1:])
    # Where this folder was moved or copied to, what pip has noted down is the place where it was.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return run(PYTHON, "-m", "semillie_core.cli", *arguments)


if __name__ == "__main__":
    sys.exit(main())
