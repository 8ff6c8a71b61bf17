"""Turn any Semi-LLIE checkpoint into this project's safetensors.

Reads    a checkpoint of the released code (.pth, with or without "module." and its optimiser), a bare state dictionary,
         a training state (state.pt of a run folder), this project's .safetensors or a bundled model's name. Files are
         read without running code from them.
Writes   OUTPUT: the weights alone, with the network's options and what is known about their origin as metadata. It
         goes into ComfyUI's models/semillie as it is.
Exits    0 done, 1 failed (the message says why), 2 wrong arguments.

    python -m training_scripts.convert_checkpoint checkpoint.pth semillie-visdrone.safetensors --metadata licence=MIT
    python -m training_scripts.convert_checkpoint runs/mine/state.pt student.safetensors --part student --dtype float16
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from semillie_core.weights import CheckpointError, convert_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        done = convert_checkpoint(
            options.source,
            options.output,
            part=options.part,
            dtype=getattr(torch, options.dtype),
            metadata=dict(options.metadata),
            overwrite=options.force,
        )
    except FileExistsError as error:
        print(f"error: {error} Choose another name, or add --force.", file=sys.stderr)
        return 1
    except (CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    model = done.model
    print(f"{options.source}: {model.variant}, {model.parameter_count:,} parameters")
    for key, value in sorted(done.metadata.items()):
        print(f"  {key}: {value if len(value) <= 100 else value[:99] + '…'}")
    if done.left_out:
        print(f"left out: {', '.join(done.left_out)}")
    if done.renamed:
        print("prefixes before tensor names removed")
    print(f"written: {options.output} ({options.output.stat().st_size:,} bytes, {options.dtype})")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.convert_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="checkpoint file, or name of a bundled model")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="file to write, ends in .safetensors")
    parser.add_argument(
        "--part", choices=("teacher", "student"), help="which weights of a training state (default: teacher)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of the stored tensors; float16 halves the file, and loading returns to float32 (default: float32)",
    )
    parser.add_argument(
        "--metadata",
        type=_entry,
        action="append",
        default=[],
        metavar="KEY=TEXT",
        help="something to say about the weights, such as licence=MIT; may be repeated",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    return parser


def _entry(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=TEXT")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
