"""What the node pack adds to ComfyUI's start-up, beyond what ComfyUI has loaded anyway.

    python benchmarks/node_import.py

Prepares the engine of the tests (``tests/comfyui/engine.py``), loads the pack in fresh processes and prints the median
processor time of importing it and of building its menus.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "comfyui"))

from engine import REPOSITORY, prepare

REPEATS = 7

CODE = """
import asyncio, importlib.util, sys, time
root, pack = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path.insert(0, root)
from comfy.cli_args import args
args.cpu = True
import utils.install_util, nodes, server
from comfy_api.latest import io
started = time.process_time()
spec = importlib.util.spec_from_file_location("a pack", pack + "/__init__.py", submodule_search_locations=[pack])
module = sys.modules["a pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
imported = time.process_time()
asyncio.run(extension.on_load())
for node in asyncio.run(extension.get_node_list()):
    node.GET_SCHEMA()
print(1e3 * (imported - started), 1e3 * (time.process_time() - imported))
"""


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    engine = prepare("current")
    runs = []
    for _ in range(REPEATS + 1):
        done = subprocess.run(  # noqa: S603
            [engine.python, "-c", CODE, engine.root, REPOSITORY], capture_output=True, text=True, check=True
        )
        runs.append([float(value) for value in done.stdout.splitlines()[-1].split()])
    imports, schemas = zip(*runs[1:], strict=True)  # the first run writes the byte code
    print(f"ComfyUI {engine.version}, {REPEATS} fresh processes, median processor time")
    print(f"import of the pack  {statistics.median(imports):6.1f} ms (limit 50)")
    print(f"node menus          {statistics.median(schemas):6.1f} ms")


if __name__ == "__main__":
    main()
