"""The exported network in onnxruntime against PyTorch: processor time of one 600 x 400 photo on one thread, as ratios.

Run it with ``python -m benchmarks.onnx_cpu``. Needs the extra ``onnx``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import onnxruntime
import torch

from benchmarks.scan_cpu import measure, ratio
from benchmarks.throughput import describe_machine
from semillie_core.export import export_onnx
from semillie_core.export.parity import dark_image
from semillie_core.scan import BACKEND_ENV, available_backends
from semillie_core.weights import load_model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="semillie-compact", help="bundled model or checkpoint file")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(model, Path(folder) / "model.onnx", shapes=[(1, 37, 50)])
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession((Path(folder) / "model.onnx").read_bytes(), settings)
    image = dark_image((1, 400, 600))

    def in_onnxruntime() -> None:
        session.run(None, {"image": image.numpy()})

    def in_torch(backend: str) -> None:
        os.environ[BACKEND_ENV] = backend
        with torch.inference_mode():
            model.network(image)

    reasons = available_backends()
    backends = [name for name in ("native", "chunked") if reasons[name] is None]
    tasks = {f"PyTorch, {name}": (lambda name=name: in_torch(name)) for name in backends}
    seconds = measure({"onnxruntime": in_onnxruntime, **tasks}, options.rounds)
    print(f"{describe_machine('cpu', 1)}, onnxruntime {onnxruntime.__version__}, {model.name}, 600 x 400")
    for name, values in seconds.items():
        against = ratio(values, seconds["onnxruntime"])
        print(f"  {name:20}{statistics.median(values):8.2f} s{against:8.2f} x the time of onnxruntime")


if __name__ == "__main__":
    main()
