"""``semillie enhance``: brighten photos."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ._clip import Clips, natural
from ._enhancer import (
    Enhancer,
    add_look_arguments,
    add_model_arguments,
    chosen_controls,
    explain,
    make_enhancer,
)
from ._errors import UsageError
from ._files import SUFFIX_OF_FORMAT, Job, find_photos, plan_jobs, without_unreadable_raw


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "enhance",
        help="brighten photos",
        description="Brighten dark photos: PNG, JPEG, WebP and TIFF with 8 or 16 bits per channel, AVIF, HEIC and "
        "camera RAW. Depth, orientation, colour profile, transparency and metadata are kept, and the photos themselves "
        "are never written to.",
        epilog="Exit status: 0 if every photo was enhanced or had a result already, 1 if some could not be or there "
        "was none, 2 if the call makes no sense, 130 after Ctrl-C. Camera RAW needs the package rawpy; without it, the "
        "RAW files among the photos of a folder or a pattern are left out.",
    )
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="a file, a folder, or a pattern such as 'trip/*.jpg'"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="a folder, or for a single photo a file (default: NAME_enhanced beside a photo, FOLDER_enhanced beside a "
        "folder)",
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="look into the folders inside folders")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist already")
    parser.add_argument(
        "--compare", action="store_true", help="also write NAME_compare.jpg with before and after"
    )
    parser.add_argument(
        "--format",
        choices=tuple(SUFFIX_OF_FORMAT),
        help="write this format (default: that of each photo; for AVIF and HEIC JPEG, or PNG if they have more than 8 "
        "bits per channel or transparency; for camera RAW PNG)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=95,
        metavar="Q",
        help="of JPEG and WebP, 1 to 100; a WebP of quality 100 is lossless (default: 95)",
    )
    look = add_look_arguments(parser)
    look.add_argument(
        "--steady-frames",
        type=int,
        default=1,
        metavar="N",
        help="take the photos of each folder, in the order of their names, for frames of a clip: their exposure is "
        "averaged over about N of them, so that it does not pump, and their noise over five, so that grain does not "
        "flicker (default: 1, every photo by itself)",
    )
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Enhance the photos."""
    from ..image_io import load_vips

    if not 1 <= args.quality <= 100:
        raise UsageError(f"--quality must be between 1 and 100, got {args.quality}.")
    if args.steady_frames < 1:
        raise UsageError(f"--steady-frames must be at least 1, got {args.steady_frames}.")
    controls = chosen_controls(args)
    found, failures = find_photos(args.photos, args.recursive, args.output)
    photos, left_out = without_unreadable_raw(found)
    readable = {photo.path for photo in photos}
    # All have a name, so that it stays the same when what reads the others is installed.
    jobs = [job for job in plan_jobs(found, args.output, args.format, args.compare) if job.source in readable]
    open_jobs: list[Job] = []
    kept: list[Path] = []
    for job in jobs:
        # os.path: a name that is too long, or in a folder that must not be looked into, fails when it is written.
        existing = [path for path in job.results if os.path.exists(path)]  # noqa: PTH110
        if existing and not args.overwrite:
            kept.append(existing[0])
        else:
            open_jobs.append(job)

    done = 0
    if open_jobs:
        enhancer = make_enhancer(args, load_vips, controls)
        clips = None
        if args.steady_frames > 1:
            # Photos that have a result already count, so that a call that goes on gives what one alone would have.
            clips = Clips(enhancer, [job.source for job in jobs], args.steady_frames)
            open_jobs.sort(key=lambda job: natural(job.source))
        print(f"Enhancing {len(open_jobs)} photo{'s' * (len(open_jobs) > 1)} with {enhancer.describe()}")
        errors = _work_through(enhancer, open_jobs, args.quality, clips)
        done = len(open_jobs) - len(errors)
        failures += errors
    for path in kept:
        print(f"kept: {path} exists already (replace it with --overwrite)")
    print(f"{done} enhanced, {len(kept)} kept, {len(failures)} failed.")
    if left_out:
        print(f"left out: {left_out}", file=sys.stderr)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures or not photos else 0


def _work_through(enhancer: Enhancer, jobs: list[Job], quality: int, clips: Clips | None) -> list[str]:
    """Do the jobs; returns a message for each that failed."""
    from tqdm import tqdm

    failures = []
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=len(jobs), bar_format=layout, disable=None, leave=False) as bar:
        for index, job in enumerate(jobs):
            bar.set_description_str(f"{index + 1}/{len(jobs)} {job.source.name}")

            def advance(fraction: float, index: int = index) -> None:
                bar.update(index + fraction - bar.n)

            start = time.perf_counter()
            try:
                _enhance_file(enhancer, job, quality, advance, clips)
            except Exception as error:
                failures.append(explain(job.source, error))
            else:
                tqdm.write(
                    f"{job.source} -> {job.target} ({time.perf_counter() - start:.1f} s)", file=sys.stdout
                )
    return failures


def _enhance_file(
    enhancer: Enhancer, job: Job, quality: int, progress: Callable[[float], None], clips: Clips | None
) -> None:
    from ..image_io import check_target, compared_width, read_photo, side_by_side, write_photo

    photo = read_photo(job.source)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    height, width = photo.pixels.shape[1:]
    check_target(job.target, height, width)
    if job.comparison is not None:
        check_target(job.comparison, height, compared_width(width))
    work = enhancer if clips is None else partial(clips.enhance, job.source)
    enhanced = work(photo.pixels, progress)
    write_photo(job.target, enhanced, like=photo, quality=quality)
    if job.comparison is not None:
        write_photo(job.comparison, side_by_side(photo.pixels, enhanced), like=photo, quality=quality)
