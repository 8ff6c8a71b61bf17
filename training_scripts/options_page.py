"""Write docs/training_options.md.

Reads    the descriptions of the options in the code.
Writes   docs/training_options.md.
Exits    0 done, 2 wrong arguments.

    python -m training_scripts.options_page
"""

from __future__ import annotations

import argparse
from pathlib import Path

from semillie_core.files import atomic_write
from semillie_core.training import TrainConfig
from semillie_core.training.options import page

PAGE = Path(__file__).parents[1] / "docs" / "training_options.md"
INTRODUCTION = """What a YAML file of a run and `--set` can say, as in `python -m training_scripts.train --help`.
Groups are written nested or, with `--set`, dotted: `--set loss.ssim=0.3`.

This page is made from the code by `python -m training_scripts.options_page`."""


def text() -> str:
    """The page as it should be."""
    return page(TrainConfig, "Options of a training run", INTRODUCTION)


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m training_scripts.options_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    with atomic_write(PAGE) as file:
        file.write(text().encode())
    print(PAGE)
