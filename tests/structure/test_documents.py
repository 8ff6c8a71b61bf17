"""Documents and code agree on what there is: links resolve, and every script is listed and speaks of itself alike."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest


def _documents(repository: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split()
    # An sdist has no history.
    found = [repository / name for name in listed] or [
        *repository.glob("*.md"),
        *repository.glob("docs/*.md"),
    ]
    # The page's base folder is docs/, whichever language it is in.
    return [path for path in found if path.stem != "zh"]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_lead_somewhere(repository: Path) -> None:
    broken = []
    for page in _documents(repository):
        for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if link.startswith("http"):
                continue
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.M) if anchor else []
            if not target.exists() or (anchor and anchor not in map(_anchor, headings)):
                broken.append(f"{page.relative_to(repository)}: {link}")
    assert not broken


SCRIPTS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "training_scripts").glob("*.py")
    if not path.stem.startswith("_")
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_is_listed_and_says_what_it_does(repository: Path, name: str) -> None:
    assert f"`{name}`" in (repository / "docs" / "scripts.md").read_text(encoding="utf-8")
    text = (repository / "training_scripts" / f"{name}.py").read_text(encoding="utf-8")
    assert f'prog="python -m training_scripts.{name}"' in text
    assert f"python -m training_scripts.{name}" in text.split('"""')[1]
    assert re.search(r"^(Exits|Exit status)|Exit status", text.split('"""')[1], re.M)
