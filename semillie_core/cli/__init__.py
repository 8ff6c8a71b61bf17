"""The ``semillie`` command.

Each subcommand is a module with ``add_parser(subparsers)``, which sets the default ``run``, and
``run(args) -> int``, the exit status: 0, 1 if some of the work failed, 2 if the call cannot be carried out. Heavy
imports stay inside ``run``, so that help and usage errors are instant.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from . import demo, doctor, enhance, models, tag, video
from ._errors import UsageError

COMMANDS = (enhance, video, demo, tag, models, doctor)
"""Modules of the subcommands, in the order of ``semillie --help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit status: 130 after Ctrl-C, 141 when the output's reader is gone, otherwise the subcommand's.
    """
    parser = argparse.ArgumentParser(prog="semillie", description="Brighten dark photos with Semi-LLIE.")
    parser.add_argument("--version", action="version", version=f"semillie {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(arguments)
    # What whoever started this has closed is open again: tqdm writes there all the same, and libvips its warnings,
    # which would go into the next file that is opened.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files and tags need not exist in the output's encoding, above all where Windows writes to a file.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int = args.run(args)
    except UsageError as error:
        print(f"semillie: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsemillie: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever reads the output, such as head, has seen enough; nothing must be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status
