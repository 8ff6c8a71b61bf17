"""``semillie tag``: name what is in photos."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import _files
from ._enhancer import add_device_argument, explain
from ._errors import UsageError

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
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list with scores instead")
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`load_tagger` reads, and those that name photos."""
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="a file, a folder, or a pattern such as 'trip/*.jpg'"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="look into the folders inside folders")
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
    add_device_argument(parser)
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto, for RAM: float16 on a GPU, bfloat16 on a CPU that has it; otherwise float32 (default: auto)",
    )
    thresholds = parser.add_mutually_exclusive_group()
    thresholds.add_argument(
        "--offset",
        type=float,
        default=0.0,
        metavar="X",
        help="add X to every tag's own threshold; negative finds more tags, but no threshold falls below a quarter of "
        "itself (default: 0)",
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


def run(args: argparse.Namespace) -> int:
    """Tag the photos, one after another."""
    from ..image_io import read_photo
    from ..ram import tag_images

    photos, failures = find_photos(args.photos, args.recursive)
    model, options = load_tagger(args)

    listing = []
    for path in photos:
        try:
            (result,) = tag_images(model, [read_photo(path).pixels], options)
        except Exception as error:
            failures.append(explain(path, error, "Try --device cpu, or end other programs."))
            continue
        if args.json:
            listing.append({"photo": str(path), "model": model.architecture, **result.to_dict()})
        else:
            print(f"{path}\t{result.text}", flush=True)
    if args.json:
        print(json.dumps(listing, ensure_ascii=False, indent=1))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return int(bool(failures))


def load_tagger(args: argparse.Namespace) -> tuple[SemanticModel, TagOptions]:
    """The model that the arguments name and what it is to report; says so where the model is not RAM.

    Raises:
        UsageError: pyvips is missing, an option is out of range or does not suit the model, or there is no such model
            or it cannot be read.
    """
    from ..image_io import load_vips
    from ..ram import tag_images
    from ..weights import DownloadError

    try:
        load_vips()
        options, model = _options(args), _model(args)
        tag_images(model, [], options)  # do the options suit the model?
    except (ValueError, OSError, DownloadError) as error:  # OSError: the model must not be read.
        raise UsageError(str(error)) from error
    if not model.is_ram:
        print(f"using {model.architecture}; for RAM see --model", file=sys.stderr)
    return model, options


def find_photos(arguments: list[str], recursive: bool) -> tuple[list[Path], list[str]]:
    """The photos that the arguments name, those enhanced earlier among them; and a message for each that names none.

    Camera RAW files that are left out are named on standard error, or in a message if there is nothing else.
    """
    found, problems = _files.find_photos(arguments, recursive, with_results=True)
    photos, left_out = _files.without_unreadable_raw(found)
    if left_out and photos:
        print(f"left out: {left_out}", file=sys.stderr)
    elif left_out:
        problems.append(left_out)
    return [photo.path for photo in photos], problems


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

    from ..devices import pick_device
    from ..ram import download_ram, load_efficientnet_lite0, load_ram, recommended_dtype

    device = pick_device(args.device)
    path = args.model
    if args.download is not None:
        if path not in ("ram", "ram_plus"):
            raise ValueError(f"--download fetches 'ram' or 'ram_plus', --model is {path!r}.")
        path = download_ram(path, args.download)
    dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
    if path == _LITE:
        return load_efficientnet_lite0(device=device, dtype=dtype or torch.float32)
    if not Path(path).is_file():
        raise ValueError(
            f"There is no file {path}. Name a RAM or RAM++ checkpoint, or have --model ram or --model ram_plus fetched "
            "with --download FOLDER."
        )
    return load_ram(path, device=device, dtype=dtype or recommended_dtype(device))
