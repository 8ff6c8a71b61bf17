"""What to type where an optional package is missing."""

from __future__ import annotations

import os
import shlex
import sys


def pip_install(packages: str) -> str:
    """The command that installs packages where they are missing.

    Args:
        packages: Their names and options, as for ``pip install``.
    """
    # The pip on the path may be that of another Python: run.py and ComfyUI have their own, which nobody activates.
    python = sys.executable or "python"
    quoted = f'"{python}"' if os.name == "nt" else shlex.quote(python)
    return f"{quoted} -m pip install {packages}"
