"""``semillie tag``: name what is in photos."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ram import SemanticModel, TagOptions

_LITE = "lite"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "tag",
        help="list what is in photos (Recognize Anything, or the bundled ImageNet network)",
        description="Print one line per photo: its path, a tab, its tags.",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument(
        "--model",
        default=_LITE,
        metavar="MODEL",
        help="path of a RAM or RAM++ checkpoint; ram or ram_plus with --download; or lite: the bundled "
        "EfficientNet-Lite0, which is not RAM and knows only ImageNet's 1000 classes (default: lite)",
    )
    parser.add_argument(
        "--download",
        type=Path,
        metavar="FOLDER",
        help="look for the model 'ram' (5.6 GB) or 'ram_plus' (3.0 GB) in FOLDER and fetch it if it is not there",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: fp16 on an accelerator, bf16 on a CPU that has it, else fp32 (default: auto)",
    )
    thresholds = parser.add_mutually_exclusive_group()
    thresholds.add_argument(
        "--offset",
        type=float,
        default=0.0,
        metavar="X",
        help="add X to every tag's own threshold; negative finds more tags (default: 0)",
    )
    thresholds.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="one probability for all tags instead of their own thresholds",
    )
    parser.add_argument("--language", choices=("en", "zh", "both"), default="en", help="default: en")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="TAGS",
        help="never report these: comma-separated, * and ? are wildcards, _ equals a blank; may be repeated",
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="TAGS",
        help="report only these; same patterns as --exclude",
    )
    parser.add_argument("--max-tags", type=int, default=0, metavar="N", help="keep the N best (default: all)")
    parser.add_argument(
        "--sort",
        choices=("score", "list"),
        default="score",
        help="best first, or tag list order (default: score)",
    )
    parser.add_argument("--separator", default=", ", metavar="TEXT", help="between tags (default: ', ')")
    parser.add_argument("--underscores", action="store_true", help="write _ for the blanks inside tags")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="before the tags, if there are any")
    parser.add_argument("--suffix", default="", metavar="TEXT", help="after the tags, if there are any")
    parser.add_argument("--json", action="store_true", help="print a JSON list with scores instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tag the photos.

    Returns:
        0, or 1 if a photo could not be tagged (the others still are), or 2 if nothing could be done.
    """
    from ..image_io import read_photo
    from ..ram import tag_images
    from ..weights import DownloadError

    try:
        options, model = _options(args), _model(args)
    except (ValueError, DownloadError) as error:
        print(f"semillie tag: {error}", file=sys.stderr)
        return 2
    if not model.is_ram:
        print(f"semillie tag: using {model.architecture}; see --model for RAM.", file=sys.stderr)

    failed = False
    listing = []
    for path in args.photos:
        try:
            (result,) = tag_images(model, [read_photo(path).pixels], options)
        except (OSError, ValueError) as error:
            print(f"semillie tag: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        if args.json:
            listing.append({"photo": str(path), "model": model.architecture, **result.to_dict()})
        else:
            print(f"{path}\t{result.text}", flush=True)
    if args.json:
        print(json.dumps(listing, ensure_ascii=False, indent=1))
    return int(failed)


def _options(args: argparse.Namespace) -> TagOptions:
    from ..ram import TagOptions

    return TagOptions(
        threshold_mode="per_tag" if args.threshold is None else "flat",
        threshold_offset=args.offset,
        flat_threshold=0.0 if args.threshold is None else args.threshold,
        language=args.language,
        exclude=",".join(args.exclude),
        include=",".join(args.include),
        max_tags=args.max_tags,
        sort=args.sort,
        separator=args.separator,
        underscores=args.underscores,
        prefix=args.prefix,
        suffix=args.suffix,
    )


def _model(args: argparse.Namespace) -> SemanticModel:
    import torch

    from ..ram import download_ram, load_efficientnet_lite0, load_ram, recommended_dtype

    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = named.get(args.precision) or recommended_dtype(args.device)
    if args.model == _LITE:
        return load_efficientnet_lite0(device=args.device, dtype=dtype)
    path = args.model
    if args.download is not None:
        if args.model not in ("ram", "ram_plus"):
            raise ValueError(f"--download fetches 'ram' or 'ram_plus', --model is {args.model!r}.")
        path = download_ram(args.model, args.download)
    return load_ram(path, device=args.device, dtype=dtype)
