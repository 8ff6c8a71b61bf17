"""Type-check the nodes.

They use relative imports beyond their own folder, as a ComfyUI node pack must, so a type checker has to see the
whole repository as one package, whatever its folder is called::

    python tests/nodes/check_types.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# ComfyUI is not there when types are checked, so everything of its is Any.
CONFIG = """
[mypy]
python_version = 3.10
strict = True
explicit_package_bases = True
disallow_subclassing_any = False
cache_dir = {cache}

[mypy-comfy.*,comfy_api.*,folder_paths,server,mamba_ssm.*,selective_scan_cuda]
ignore_missing_imports = True
follow_imports = skip

# The core is checked under its own name.
[mypy-pack.semillie_core.*]
follow_imports = silent

[mypy-pack.nodes.*]
# torch leaves a few of its methods (Tensor.split) untyped.
disallow_untyped_calls = False
"""


def main() -> int:
    """Run mypy on the pack under a neutral name; return its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pack").symlink_to(REPOSITORY, target_is_directory=True)
        config = Path(folder) / "mypy.ini"
        config.write_text(CONFIG.format(cache=REPOSITORY / ".mypy_cache" / "nodes"), encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", config, "-p", "pack.nodes"], cwd=folder
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
