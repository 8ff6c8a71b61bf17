"""Tag folders of photos into one file, for data sets: like `semillie tag`, in batches and resumable.

Reads    photos and folders of photos (PNG, JPEG, WebP, TIFF); with --recursive the folders inside, too.
Writes   OUTPUT, JSON lines, one photo each: path, sha256 (which joins it to a manifest), model, text, and every tag
         with its probability and score. Photos that are in it already and have not changed are left out, so the same
         command continues after an interrupt, and other folders can be added. With --csv also a table of path, sha256
         and text.
Exits    0 done, 1 some photos could not be read (they are named), 2 the call cannot be carried out, 130 interrupted.

Needs the extra: pip install '.[cli]'. The bundled network knows ImageNet's classes; RAM needs its weights:

    python -m training_scripts.tag_images data/train/low --output tags.jsonl
    python -m training_scripts.tag_images data -r --output tags.jsonl --model ram_plus --download models/rams
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from semillie_core.cli import tag
from semillie_core.image_io import read_photo
from semillie_core.ram import TagFileError, tag_into_file, write_tag_csv


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    photos, problems = tag.find_photos(options.photos, options.recursive)
    try:
        model, tag_options = tag.load_tagger(options)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        result = tag_into_file(
            model,
            photos,
            options.output,
            tag_options,
            read=lambda path: read_photo(path).pixels,
            batch_size=options.batch_size,
            on_photo=lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr, flush=True),
        )
        if options.csv is not None:
            write_tag_csv(options.output, options.csv)
    except (tag.UsageError, TagFileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command continues.", file=sys.stderr)
        return 130
    print(f"{options.output}: {result.tagged} photos tagged, {result.kept} were there already")
    for failure in (*problems, *result.failures):
        print(f"failed: {failure}", file=sys.stderr)
    return int(bool(problems or result.failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.tag_images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tag.add_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="JSONL", help="file to write or to add to"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a table of all of OUTPUT")
    parser.add_argument(
        "--batch-size",
        type=_count,
        default=8,
        metavar="N",
        help="photos per pass; halved on its own when GPU memory runs out (default: 8)",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
