"""``semillie models``: which models there are."""

from __future__ import annotations

import argparse

from ._errors import UsageError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "models",
        help="list the models and where they come from",
        description="List the bundled models, the default first, or describe checkpoint files.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="NAME_OR_FILE",
        help="a bundled model or a checkpoint file (default: all bundled)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe the models."""
    from ..weights import CheckpointError, bundled_models, load_model

    for name in args.models or bundled_models():
        try:
            model = load_model(name)
        except CheckpointError as error:
            raise UsageError(str(error)) from error
        print(f"{model.name}: {model.architecture}, {model.variant}, {model.parameter_count:,} parameters")
        for key, value in sorted(model.provenance.items()):
            print(f"    {_printable(key)}: {_printable(value)}")
    return 0


def _printable(text: str) -> str:
    """A stranger's text without what would make a terminal do something."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
