"""Which photos a command line names, and where their results go."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ._errors import UsageError

SUFFIX_OF_FORMAT = {
    "png": ".png",
    "jpeg": ".jpg",
    "jpg": ".jpg",
    "webp": ".webp",
    "tiff": ".tif",
    "tif": ".tif",
}
"""Values of ``--format``, the names of formats among them, and the ending each gives a file."""

VIDEO_SUFFIXES = frozenset(
    f".{kind}"
    for kind in "mp4 m4v mov mkv avi webm wmv flv mts m2ts ts mpg mpeg 3gp ogv vob".split()  # noqa: SIM905
)
"""Endings of videos."""

_NOT_WRITTEN = VIDEO_SUFFIXES | {".bmp", ".gif", ".jp2", ".jxl", ".exr", ".ppm", ".psd", ".tga"}
"""Endings by which an output is meant for a file, of pictures and videos that are not written as photos."""

_MARK, _COMPARISON = "_enhanced", "_compare"
_RESULT = re.compile(rf"(.*){_MARK}(-[0-9]+)?({_COMPARISON}(-[0-9]+)?)?", re.DOTALL)
"""The stem of a result beside its photo; the first group is the photo's."""


@dataclass(frozen=True)
class Found:
    """A photo to work on."""

    path: Path
    """The file."""
    place: Path
    """Where it was found, relative to the argument that named it: its path inside a folder, or its bare name."""
    folder: Path | None = None
    """The folder argument it was found in."""
    is_named: bool = False
    """Whether the argument is its very name, not a folder or a pattern."""


@dataclass(frozen=True)
class Job:
    """A photo and the files made from it."""

    source: Path
    """The photo."""
    target: Path
    """The enhanced photo."""
    comparison: Path | None = None
    """The picture of before and after."""

    @property
    def results(self) -> list[Path]:
        """The files to write."""
        return [self.target] if self.comparison is None else [self.target, self.comparison]


def find_photos(
    arguments: Sequence[str],
    recursive: bool = False,
    leave_out: Path | None = None,
    *,
    with_results: bool = False,
) -> tuple[list[Found], list[str]]:
    """Resolve files, folders and glob patterns, each photo once and in a fixed order.

    Args:
        arguments: What the user named. Patterns work where the shell does not expand them, too.
        recursive: Look into the folders inside folders.
        leave_out: Folder of results, not to be searched when it lies inside a searched one, or inside that from which
            a pattern starts.
        with_results: Take what ``semillie enhance`` has written beside a photo for a photo, too.

    Returns:
        The photos, and a message for each argument that names none.
    """
    from ..image_io import READABLE_FORMATS

    found: list[Found] = []
    problems: list[str] = []
    for argument in arguments:
        if not argument:
            # As a path it is the current folder: what a script's unset variable should not set to work.
            problems.append("An empty argument names no photo. Check the variable it comes from.")
            continue
        path = Path(argument)
        try:
            is_folder, exists = path.is_dir(), path.exists()
            if is_folder:
                os.scandir(path).close()
        except OSError as error:  # The name is too long, or this or a folder above must not be looked into.
            problems.append(f"{path} cannot be read: {error.strerror or error}.")
            continue
        if is_folder:
            in_folder = _in_folder(path, recursive, leave_out)
            if not in_folder:
                hint = "" if recursive else " Add --recursive to look into the folders inside it."
                problems.append(f"{path} holds no {READABLE_FORMATS} file.{hint}")
            found += in_folder
        elif exists:
            found.append(Found(path, Path(path.name), is_named=True))
        elif glob.has_magic(argument):
            matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207
            matches = [match for match in matches if _is_photo(match) and _is_file(match)]
            matches = outside(matches, searched_by(path), leave_out)
            if not matches:
                problems.append(f"{argument} matches no {READABLE_FORMATS} file.")
            found += [Found(match, Path(match.name)) for match in matches]
        else:
            problems.append(f"{path} does not exist. Check the spelling.")
    unique: dict[Path, Found] = {}
    for photo in found:
        unique.setdefault(photo.path.resolve(), photo)
    photos = list(unique.values())
    if not with_results:
        kept = set(without_earlier_results([photo.path for photo in photos]))
        photos = [photo for photo in photos if photo.path in kept]
    return photos, problems


def without_unreadable_raw(photos: Sequence[Found]) -> tuple[list[Found], str]:
    """Leave out camera RAW files that nobody named one by one, where what reads them is not installed.

    Cameras write them beside JPEG files of the same pictures, for which alone a folder may have been named.

    Args:
        photos: From :func:`find_photos`.

    Returns:
        The other photos, and how many were left out and what to install, or an empty text if none was.
    """
    from ..image_io import photo_format, raw_obstacle

    left_out = {photo for photo in photos if not photo.is_named and photo_format(photo.path) == "raw"}
    if not left_out or (obstacle := raw_obstacle()) is None:
        return list(photos), ""
    message = f"{len(left_out)} camera RAW file{'s' * (len(left_out) > 1)}; {obstacle}"
    return [photo for photo in photos if photo not in left_out], message


def plan_jobs(
    photos: Sequence[Found], output: Path | None, file_format: str | None = None, compare: bool = False
) -> list[Job]:
    """Give every photo result files of its own that are none of the photos.

    A result has its photo's name and ending; where the ending is not that of the format which the photo's content
    shows, that format is not written (AVIF, HEIC, RAW), or ``file_format`` asks for another, the ending of the format
    that is. Without ``output``, results go beside single photos as ``NAME_enhanced`` and for a folder into
    ``FOLDER_enhanced`` beside it. An ``output`` that ends like a picture or clip and is not a folder is a file,
    otherwise a folder that mirrors the searched ones. Where names coincide, results are numbered: last of all
    those of camera RAW files, before them those of other photos whose ending changes, so that the name of IMG_1.JPG's
    does not depend on whether IMG_1.HEIC or IMG_1.CR2 is beside it.

    Args:
        photos: From :func:`find_photos`.
        output: What the user named.
        file_format: Key of :data:`SUFFIX_OF_FORMAT`; ``None`` keeps each photo's.
        compare: Plan a picture ``RESULT_compare.jpg`` of before and after, too.

    Raises:
        UsageError: One output file for several photos, over a photo, against ``file_format``, or of a format that is
            not written; an ``output`` that is a file of another kind; or no ``output`` for a folder that has no other
            beside it, such as a whole drive.
    """
    # os.path: where a folder above must not be looked into, writing fails later and says so.
    if output is not None and is_file_name(output) and not os.path.isdir(output):  # noqa: PTH112
        return _single_job(photos, output, file_format, compare)
    if output is not None and _is_file(output):
        raise UsageError(f"--output {output} is a file, and not of a photo: name a folder, or a new file.")
    inputs = {file_key(photo.path) for photo in photos}
    taken = set(inputs)
    numbers: dict[str, int] = {}
    """Where the search for a free number goes on, by the name without one."""
    preferred = {photo: _preferred_target(photo, output, file_format) for photo in photos}
    order = sorted(photos, key=lambda photo: _rank(photo, preferred[photo]))

    def free(path: Path) -> Path:
        plain, key = path, file_key(path)
        number = numbers.get(key, 1)
        while file_key(path) in taken:
            number += 1
            path = plain.with_stem(f"{plain.stem}-{number}")
        numbers[key] = number
        taken.add(file_key(path))
        return path

    targets = {}
    for photo in order:
        target = preferred[photo]
        targets[photo] = free(target.with_stem(target.stem + _MARK) if file_key(target) in inputs else target)
    # After all targets, the names of which are the same in a call without comparisons.
    comparisons = {photo: free(_comparison(targets[photo])) for photo in order} if compare else {}
    return [Job(photo.path, targets[photo], comparisons.get(photo)) for photo in photos]


def _comparison(target: Path) -> Path:
    return target.with_name(f"{target.stem}{_COMPARISON}.jpg")


def _rank(photo: Found, target: Path) -> int:
    """The lower, the sooner a photo gets the name that it prefers."""
    from ..image_io import READABLE_SUFFIXES

    suffix = photo.place.suffix.lower()
    if READABLE_SUFFIXES.get(suffix) == "raw":
        return 2
    return int(target.suffix.lower() != suffix)


def _preferred_target(photo: Found, output: Path | None, file_format: str | None) -> Path:
    from ..image_io import READABLE_SUFFIXES, result_format

    place, named = photo.place, READABLE_SUFFIXES.get(photo.place.suffix.lower())
    wanted = file_format or result_format(photo.path)
    # A photo that cannot be recognised fails when it is read, and keeps its name until then.
    if wanted is not None and (file_format is not None or wanted != named):
        # What follows the last dot of another name, such as 2024.12.24, is part of it.
        place = place.with_name((place.stem if named else place.name) + SUFFIX_OF_FORMAT[wanted])
    if output is not None:
        return output / place
    if photo.folder is not None:
        folder = photo.folder.resolve()
        if not folder.name:
            raise UsageError(f"{folder} has no folder beside it for the results: name one with --output.")
        return folder.with_name(folder.name + _MARK) / place
    return photo.path.with_name(place.stem + _MARK + place.suffix)


def _single_job(photos: Sequence[Found], output: Path, file_format: str | None, compare: bool) -> list[Job]:
    from ..image_io import PHOTO_SUFFIXES

    if output.suffix.lower() not in PHOTO_SUFFIXES:
        how = "not" if output.suffix.lower() in _NOT_WRITTEN else "read but not"
        raise UsageError(
            f"--output {output}: {output.suffix[1:].upper()} is {how} written. Let it end in one of "
            f"{', '.join(PHOTO_SUFFIXES)}, or name a folder."
        )
    if len(photos) > 1:
        raise UsageError(f"--output {output} is one file, but there are {len(photos)} photos: name a folder.")
    if (
        file_format is not None
        and PHOTO_SUFFIXES[SUFFIX_OF_FORMAT[file_format]] != PHOTO_SUFFIXES[output.suffix.lower()]
    ):
        raise UsageError(f"--output {output} and --format {file_format} contradict each other: drop one.")
    jobs = [Job(photo.path, output, _comparison(output) if compare else None) for photo in photos]
    for job in jobs:
        if file_key(job.source) in map(file_key, job.results):
            raise UsageError(
                f"--output {output} would overwrite {job.source}, the photo itself: choose another name."
            )
    return jobs


def is_file_name(output: Path) -> bool:
    """Whether an output ends like a picture or a video, and so is meant for a file."""
    return _is_photo(output) or (output.suffix.lower() in _NOT_WRITTEN and not output.name.startswith("."))


def _is_photo(path: Path) -> bool:
    from ..image_io import READABLE_SUFFIXES

    # A leading dot hides a file, and on macOS marks resource forks such as ._photo.jpg.
    return path.suffix.lower() in READABLE_SUFFIXES and not path.name.startswith(".")


def _in_folder(folder: Path, recursive: bool, leave_out: Path | None) -> list[Found]:
    paths = sorted(
        path
        for path in folder.glob("**/*" if recursive else "*")
        # As for patterns, what lies in a hidden folder, such as .Trash-1000, is not looked at.
        if not any(part.startswith(".") for part in path.relative_to(folder).parts[:-1])
        and _is_photo(path)
        and _is_file(path)
    )
    return [Found(path, path.relative_to(folder), folder) for path in outside(paths, folder, leave_out)]


def _is_file(path: Path) -> bool:
    # Unlike its method, never raises: what must not be looked at is no photo.
    return os.path.isfile(path)  # noqa: PTH113


def searched_by(pattern: Path) -> Path:
    """The folder in and below which a pattern finds files."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts))


def outside(paths: list[Path], searched: Path, leave_out: Path | None) -> list[Path]:
    """The paths that are not in ``leave_out``, if that is a folder inside the searched one; else all."""
    if leave_out is None or searched.resolve() not in (inner := leave_out.resolve()).parents:
        return paths
    return [path for path in paths if inner not in path.resolve().parents]


def without_earlier_results(paths: list[Path]) -> list[Path]:
    """Drop ``NAME_enhanced`` beside ``NAME``, numbered ones and comparisons: results of an earlier, similar call."""
    sources = {(path.parent, path.stem) for path in paths}

    def is_result(path: Path) -> bool:
        named = _RESULT.fullmatch(path.stem)
        return named is not None and (path.parent, named[1]) in sources

    return [path for path in paths if not is_result(path)]


def file_key(path: Path) -> str:
    """The same for all names of a file, and of those that are one on Windows or macOS."""
    # Case makes no difference there, nor, on macOS, whether an accent is part of its letter.
    return unicodedata.normalize("NFC", os.path.realpath(path).casefold())
