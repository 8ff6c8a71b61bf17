"""List training photos in a manifest whose train, val and test splits share no scene.

Finds    LOL v1 and v2, LSRW, SICE, labeled/unlabeled folders as in the VisDrone experiments, plain low/high folders and
         folders of dark photos, anywhere below ROOT. Pairs match by name.
Checks   that photos can be read, that pairs agree in size and the dark one is darker, that no file is there twice, and
         that no scene is in two splits: by a list of scenes if you have one, else by looks, whatever the exposure or
         compression. Train gives way to val, and both to test: LOL v1 as published fails this check.
Writes   OUTPUT (JSON lines), and OUTPUT with .report.md and .report.json: what was left out, and why. The photos stay
         where they are; move manifest and photos together.
Exits    0 done, 1 failed, or --check found something (the message says what), 2 wrong arguments.

    python -m training_scripts.prepare_data data/LOL data/dark_photos --output data/manifest.jsonl
    python -m training_scripts.train CONFIG --set data.manifest=data/manifest.jsonl
    python -m training_scripts.evaluate --model MINE --pairs LOW HIGH --training-manifest data/manifest.jsonl
    python -m training_scripts.prepare_data --check data/manifest.jsonl
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from semillie_core.data import DataError
from semillie_core.data.manifest import write_manifest
from semillie_core.data.prepare import check_manifest, prepare
from semillie_core.data.scenes import SAME_SCENE
from semillie_core.files import atomic_write


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.check is None) == (not options.roots) or (options.roots and options.output is None):
        parser.error("give ROOT... and --output, or --check MANIFEST")
    try:
        return _check(options) if options.check is not None else _prepare(options)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _prepare(options: argparse.Namespace) -> int:
    output: Path = options.output
    reports = {kind: output.with_suffix(f".report.{kind}") for kind in ("md", "json")}
    if not options.force:
        for path in (output, *reports.values()):
            if path.exists():
                raise DataError(f"{path} exists. Choose another name, or add --force.")
    result = prepare(
        options.roots,
        val=options.val,
        test=options.test,
        seed=options.seed,
        scenes=options.scenes,
        similarity=options.similarity,
        keep_leaks=options.keep_leaks,
        workers=options.workers,
        on_photo=_progress,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    for kind, text in (("md", result.to_markdown()), ("json", result.to_json())):
        with atomic_write(reports[kind]) as file:
            file.write(text.encode())
    write_manifest(output, result.entries)
    print(result.to_markdown())
    print(f"written: {output}, {reports['md']}, {reports['json']}")
    return 0


def _check(options: argparse.Namespace) -> int:
    problems, leaks = check_manifest(
        options.check, similarity=options.similarity, workers=options.workers, on_photo=_progress
    )
    for problem in problems:
        print(problem)
    for leak in leaks:
        print(
            f"leak ({leak.how}, {leak.similarity:.2f}): {leak.splits[0]} {leak.one}, {leak.splits[1]} {leak.other}"
        )
    print(
        f"{options.check}: {len(problems)} photos differ from their entry, {len(leaks)} leaks between splits"
    )
    return 1 if problems or leaks else 0


def _progress(done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_scripts.prepare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("roots", nargs="*", metavar="ROOT", help="folder of a data set; names must differ")
    parser.add_argument("--output", type=Path, metavar="JSONL", help="manifest to write")
    parser.add_argument(
        "--check", type=Path, metavar="MANIFEST", help="compare a manifest with its photos instead"
    )
    parser.add_argument(
        "--val",
        type=float,
        metavar="FRACTION",
        help="of the scenes to validate on (default: 0.1, or none if a layout brings its own)",
    )
    parser.add_argument(
        "--test",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="of the scenes without a split of their own to test on (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the drawn splits (default: 0)")
    parser.add_argument(
        "--scenes",
        type=Path,
        metavar="CSV",
        help="true scenes: columns scene, one of file names, and optionally set (the folder a file is in)",
    )
    parser.add_argument(
        "--similarity",
        type=float,
        default=SAME_SCENE,
        help="rank correlation from which two photos show one scene; lower is stricter (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-leaks",
        action="store_true",
        help="keep published splits that share scenes; the report lists them, and evaluation refuses them",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="threads that read photos (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT and its reports")
    return parser


if __name__ == "__main__":
    sys.exit(main())
