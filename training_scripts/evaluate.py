"""Score a model, or the images another program made, on pairs of photos: per image, and on average with 95 % intervals.

Reads    a bundled model's name or a checkpoint (--model), or a folder of finished images (--outputs); and two folders
         of pairs. Files pair up by name; extensions may differ.
Writes   a Markdown table; with --json also every score. Plain scores come first; "GT-mean" scores, which borrow the
         reference's brightness, stand beside them because papers quote them.
Exits    0 done, 1 failed (the message says why), 2 wrong arguments.

Choose models on validation pairs and report on test pairs, never the other way round. --training-manifest refuses
images that the model was trained on. It knows files by content: a training photo that was saved again or resized passes
as new, unless prepare_data was given that file, too. --outputs puts a peer's results under the same metrics. Scored is
the network alone; --with-controls scores what users get: noise reduced, highlights protected, photos that are lit well
left alone.

    python -m training_scripts.evaluate --model semillie-compact --pairs data/val/low data/val/high
    python -m training_scripts.evaluate --outputs results/peer --pairs data/test/low data/test/high --json peer.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from semillie_core.data import find_pairs
from semillie_core.data.pairs import find_unpaired, named
from semillie_core.devices import pick_device
from semillie_core.files import atomic_write, prepare_target
from semillie_core.inference import NETWORK_ALONE, EnhanceControls, enhance
from semillie_core.metrics import LPIPSAlex
from semillie_core.metrics.evaluation import evaluate
from semillie_core.weights import CheckpointError, load_model


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.json is not None:
            prepare_target(options.json)
        pairs = find_pairs(*options.pairs)
        if options.outputs is None:
            model = load_model(options.model).to(device=pick_device(options.device))
            name = f"{model.name} ({model.parameter_count:,} parameters)"
            if options.with_controls:
                name += " with the enhancer's default controls"
            controls = EnhanceControls() if options.with_controls else NETWORK_ALONE
            enhancer = lambda image: enhance(model, image, tile=options.tile, controls=controls).image  # noqa: E731
        else:
            name = options.outputs
            enhancer = {pair.name: pair.low for pair in find_pairs(options.outputs, options.pairs[1])}
        result = evaluate(
            enhancer,
            pairs,
            lpips=_lpips(),
            training_manifest=options.training_manifest,
            allow_seen=options.allow_seen,
            on_image=lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr, flush=True),
        )
    except (CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    if alone := find_unpaired(*options.pairs):
        print(f"{len(alone)} images have no partner of the same name and are not scored: {named(alone)}")
    print(f"{name} on {len(pairs)} pairs of {options.pairs[0]}\n")
    print(result.to_markdown())
    if options.json is not None:
        model_name = model.name if options.outputs is None else None
        record = {
            "model": model_name,
            "outputs": options.outputs,
            "with_controls": options.with_controls,
            "low": options.pairs[0],
            "high": options.pairs[1],
            **result.to_dict(),
        }
        with atomic_write(options.json) as file:
            file.write(json.dumps(record, indent=2, allow_nan=False).encode() + b"\n")
        print(f"written: {options.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--model", help="name of a bundled model, or a checkpoint file")
    scored.add_argument(
        "--outputs", metavar="FOLDER", help="finished images of another program, named like the pairs"
    )
    parser.add_argument(
        "--pairs",
        required=True,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="folders of dark photos and of their references; files pair up by name, extensions may differ",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all scores to this file")
    parser.add_argument(
        "--device", default="cpu", help="where to run the model: cpu, cuda, mps, xpu, auto (default: cpu)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="work in tiles of this edge (default: the whole photo at once)",
    )
    parser.add_argument(
        "--with-controls",
        action="store_true",
        help="score the enhancer with its default controls instead of the network alone",
    )
    parser.add_argument(
        "--training-manifest",
        type=Path,
        metavar="JSONL",
        help="manifest of prepare_data; the evaluation refuses photos and scenes of its training split "
        "(of files in the manifest, known by content: not copies saved again)",
    )
    parser.add_argument(
        "--allow-seen",
        action="store_true",
        help="score photos and scenes of the training split all the same; the output then says so",
    )
    return parser


def _lpips() -> LPIPSAlex | None:
    try:
        return LPIPSAlex.pretrained()
    except FileNotFoundError as error:
        print(f"no LPIPS column: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
