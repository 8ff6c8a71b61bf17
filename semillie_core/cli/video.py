"""``semillie video``: brighten videos."""

from __future__ import annotations

import argparse
import glob
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._clip import check_judges_frames
from ._enhancer import (
    Enhancer,
    add_look_arguments,
    add_model_arguments,
    chosen_controls,
    explain,
    make_enhancer,
)
from ._errors import UsageError
from ._files import (
    VIDEO_SUFFIXES,
    file_key,
    is_file_name,
    outside,
    searched_by,
    without_earlier_results,
)

if TYPE_CHECKING:
    from ..video_io import Video

STEADY_FRAMES = 24
"""About a second of a film."""
_WRITABLE = (".mp4", ".m4v", ".mov", ".mkv")
"""Keys of ``video_io.CONTAINERS``, which cannot be imported before the arguments are known."""
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "video",
        help="brighten videos",
        description="Brighten dark videos: what FFmpeg's libraries read. Results are H.264 in MP4, MOV or MKV, of "
        "standard dynamic range (HLG and PQ are converted) and not interlaced. Timing, orientation, metadata and sound "
        "are kept (as AAC what the kind of file does not take), and the videos themselves are never written to. A "
        "video is read twice: first, the light of all pictures is measured.",
        epilog="Exit status: 0 if every video was enhanced or had a result already, 1 if some could not be, 2 if the "
        "call makes no sense, 130 after Ctrl-C.",
    )
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a file, or a pattern such as 'trip/*.mp4'"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="a folder, or for a single video a file that ends in .mp4, .m4v, .mov or .mkv (default: NAME_enhanced "
        "beside each video, in MP4 if its own kind is not written)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist already")
    parser.add_argument(
        "--crf",
        type=int,
        default=18,
        metavar="Q",
        help="quality of the encoder, 0 (best) to 51; 6 less is about twice the size (default: 18)",
    )
    look = add_look_arguments(parser)
    look.add_argument(
        "--steady-frames",
        type=int,
        metavar="N",
        help="average the exposure over about N pictures, so that it does not pump, and noise over five, so that grain "
        f"does not flicker; 1 takes every picture by itself (default: {STEADY_FRAMES}, 1 for networks without a "
        "thumbnail)",
    )
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Enhance the videos."""
    from ..video_io import Video, load_av

    if not 0 <= args.crf <= 51:
        raise UsageError(f"--crf must be between 0 and 51, got {args.crf}.")
    if args.steady_frames is not None and args.steady_frames < 1:
        raise UsageError(f"--steady-frames must be at least 1, got {args.steady_frames}.")
    controls = chosen_controls(args)
    paths, failures = _find(args.videos, args.output)
    _check_output(args.output, paths)
    enhancer = make_enhancer(args, load_av, controls)
    if args.steady_frames is None:
        args.steady_frames = STEADY_FRAMES if enhancer.model.config.thumbnail else 1
    if args.steady_frames > 1:
        check_judges_frames(enhancer)

    print(f"Enhancing {len(paths)} video{'s' * (len(paths) != 1)} with {enhancer.describe()}")
    taken = {file_key(path) for path in paths}
    done = kept = 0
    for path in paths:
        try:
            video = Video(path)
            target = _target(path, args.output, taken)
            if target.exists() and not args.overwrite:
                print(f"kept: {target} exists already (replace it with --overwrite)")
                kept += 1
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            _enhance_file(enhancer, video, target, args.crf, args.steady_frames)
        except Exception as error:
            failures.append(explain(path, error))
            continue
        done += 1
        print(f"{path} -> {target} ({video.count} pictures, {time.perf_counter() - start:.1f} s)")
        if video.high_range:
            print(
                f"note: {path} is of high dynamic range ({video.high_range}), the result of standard range."
            )
        if video.damaged:
            print(f"note: {video.damaged} damaged pieces of {path} could not be decoded and are left out.")
    print(f"{done} enhanced, {kept} kept, {len(failures)} failed.")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _enhance_file(enhancer: Enhancer, video: Video, target: Path, crf: int, frames: int) -> None:
    from tqdm import tqdm

    from ..files import check_writable
    from ..inference.video import enhance_video, measure_video
    from ..video_io import write_video

    check_writable(target)
    name = video.path.name
    bar: dict[str, Any] = {
        "unit": " pictures",
        "total": video.expected or None,
        "disable": None,
        "leave": False,
    }
    steady = None
    if frames > 1:
        steady = measure_video(enhancer.model, tqdm(video, f"{name}: light", **bar), frames)
        bar |= {"total": len(steady.shots), "bar_format": _BAR}
    edge = enhancer.edge(video.height, video.width)
    pictures = enhance_video(enhancer.model, video, steady, controls=enhancer.controls, tile=edge)
    write_video(target, video, tqdm(pictures, name, **bar), crf)


def _find(arguments: Sequence[str], output: Path | None) -> tuple[list[Path], list[str]]:
    """The files that arguments name, each once, and a message for each argument that names none.

    Results of an earlier call, beside their videos or in the folder ``output``, are none of them: the same call again
    must find them done.
    """
    found: dict[str, Path] = {}
    problems = []
    for argument in arguments:
        path = Path(argument)
        if argument and path.is_file():
            found.setdefault(file_key(path), path)
        elif argument and path.is_dir():
            problems.append(f"{path} is a folder. Name its videos, as in '{path / '*.mp4'}'.")
        elif glob.has_magic(argument):
            matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207
            matches = [match for match in matches if match.suffix.lower() in VIDEO_SUFFIXES]
            matches = outside(matches, searched_by(path), output)
            if not matches:
                problems.append(f"{argument} matches no video.")
            for match in matches:
                found.setdefault(file_key(match), match)
        else:
            problems.append(f"{argument or 'An empty argument'} does not exist. Check the spelling.")
    return without_earlier_results(list(found.values())), problems


def _check_output(output: Path | None, videos: Sequence[Path]) -> None:
    if output is None or output.is_dir():
        return
    if output.suffix.lower() in _WRITABLE:
        if len(videos) > 1:
            raise UsageError(
                f"--output {output} is one file, but there are {len(videos)} videos: name a folder."
            )
        if file_key(output) in map(file_key, videos):
            raise UsageError(f"--output {output} would overwrite the video itself: choose another name.")
    elif is_file_name(output) or output.exists():
        raise UsageError(f"--output {output}: end a file's name in {', '.join(_WRITABLE)}, or name a folder.")


def _target(video: Path, output: Path | None, taken: set[str]) -> Path:
    """Where the result goes; a name that an earlier one took, or a video has, gets a number."""
    if output is not None and not output.is_dir() and output.suffix.lower() in _WRITABLE:
        return output
    folder = video.parent if output is None else output
    name = video.stem + ("_enhanced" if output is None else "")
    suffix = video.suffix.lower() if video.suffix.lower() in _WRITABLE else _WRITABLE[0]
    number, target = 1, folder / (name + suffix)
    while file_key(target) in taken:
        number += 1
        target = folder / f"{name}-{number}{suffix}"
    taken.add(file_key(target))
    return target
