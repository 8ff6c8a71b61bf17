"""``semillie demo``: see what Semi-LLIE does."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ._enhancer import add_model_arguments, explain, make_enhancer
from ._errors import UsageError
from ._files import file_key, find_photos, without_unreadable_raw

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
"""The sample photos of a checkout; they are no part of the installed package."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "demo",
        help="enhance the sample photos, and yours, into pictures of before and after",
        description="Enhance the sample photos that ship with Semi-LLIE, and any of yours, and write one picture per "
        "photo with before on the left and after on the right.",
    )
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="your own: files, folders or patterns")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="where the pictures go, replacing those of an earlier demo (default: results)",
    )
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the pictures."""
    from ..image_io import check_target, compared_width, load_vips, read_photo, side_by_side, write_photo

    # The clip for video workflows is no photo.
    samples = [str(path) for path in sorted(SAMPLES.glob("*")) if path.suffix in (".jpg", ".png")]
    if not samples and not args.photos:
        raise UsageError(
            "The sample photos are in the repository, not in the installed package: name a photo."
        )
    found, failures = find_photos([*samples, *args.photos])
    photos, left_out = without_unreadable_raw(found)
    enhancer = make_enhancer(args, load_vips)
    print(f"Enhancing {len(photos)} photos with {enhancer.describe()}")
    taken = {file_key(photo.path) for photo in photos}
    for photo in photos:
        name, number = photo.path.stem, 1
        while file_key(target := args.output / f"{name}_before_after.jpg") in taken:
            number += 1
            name = f"{photo.path.stem}-{number}"
        taken.add(file_key(target))
        try:
            before = read_photo(photo.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            height, width = before.pixels.shape[1:]
            check_target(target, height, compared_width(width))
            start = time.perf_counter()
            after = enhancer(before.pixels, lambda _: None)
            seconds = time.perf_counter() - start
            write_photo(target, side_by_side(before.pixels, after), like=before)
        except Exception as error:
            failures.append(explain(photo.path, error))
            continue
        mean_before, mean_after = float(before.pixels[:3].mean()), float(after[:3].mean())
        print(
            f"  {photo.path.name}: {width} x {height} in {seconds:.2f} s, "
            f"mean brightness {mean_before:.0%} -> {mean_after:.0%}, {target}"
        )
    print(f"The pictures of before and after are in {args.output.resolve()}")
    if left_out:
        print(f"left out: {left_out}", file=sys.stderr)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures or not photos else 0
