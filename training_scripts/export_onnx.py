"""Export a model to ONNX, checked against PyTorch before the file is written.

Reads    a bundled model's name, a checkpoint of this project (.safetensors) or of the released code (.pth).
Writes   OUTPUT, one ONNX file: input "image", output "enhanced", both (batch, 3, height, width) float32 in [0, 1] of
         any size; and OUTPUT's name with .parity.json, the comparison with PyTorch at each --size.
         Where onnxruntime and PyTorch differ by more than --tolerance, only the report is written.
Exits    0 done, 1 failed (the message says why), 2 wrong arguments.

Needs the extra: pip install '.[onnx]'. Example:

    python -m training_scripts.export_onnx semillie-compact semillie-compact.onnx
    python -m training_scripts.export_onnx runs/mine/best.safetensors mine.onnx --size 1920x1080 --size 641x427

Then, with onnxruntime and numpy alone:

    session = onnxruntime.InferenceSession("semillie-compact.onnx")
    (enhanced,) = session.run(["enhanced"], {"image": photo})  # (1, 3, H, W) float32 in [0, 1]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from semillie_core.export import DEFAULT_SHAPES, TOLERANCE, ExportError, ParityReport, export_onnx
from semillie_core.files import atomic_write
from semillie_core.weights import CheckpointError, load_model


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    output: Path = options.output
    report_path = output.with_suffix(".parity.json")
    try:
        if output.exists() and not options.force:
            raise FileExistsError(f"{output} exists: choose another name, or add --force.")
        model = load_model(options.model)
        output.parent.mkdir(parents=True, exist_ok=True)
        report = export_onnx(
            model, output, shapes=options.size or DEFAULT_SHAPES, tolerance=options.tolerance
        )
    except ExportError as error:
        if error.report is not None:
            _write(report_path, options.model, error.report)
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _write(report_path, options.model, report)
    print(f"{model.name}: {model.variant}, {model.parameter_count:,} parameters")
    print(f"written: {output} ({output.stat().st_size:,} bytes), {report_path}")
    return 0


def _write(path: Path, model: str, report: ParityReport) -> None:
    print(report.to_text())
    with atomic_write(path) as file:
        file.write(json.dumps({"model": model, **report.to_dict()}, indent=1).encode() + b"\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.export_onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="name of a bundled model, or a checkpoint file")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="file to write, such as model.onnx")
    parser.add_argument(
        "--size",
        type=_size,
        action="append",
        metavar="WxH",
        help="compare at this size; may be repeated (default: "
        + ", ".join(f"{width}x{height}" for _, height, width in DEFAULT_SHAPES)
        + ")",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference that passes, for values in [0, 1] (default: %(default)g)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    return parser


def _size(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x427")
    width, height = map(int, text.split("x"))
    return 1, height, width


if __name__ == "__main__":
    sys.exit(main())
