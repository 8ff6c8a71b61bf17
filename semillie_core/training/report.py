"""The report of a run: curves, tables and pictures in one Markdown file beside the log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..files import atomic_write
from .journal import LOG, read_log

REPORT = "report.md"
CURVES = "curves"
_SIZE = (720, 240)
_MARGIN = (56, 12, 12, 28)
_POINTS = 400
_COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d5a97", "#c77d0a", "#5c677d", "#0f8b8d")
_SCORES = {
    "val_psnr": "PSNR, dB",
    "val_ssim": "SSIM",
    "val_psnr_noise_reduced": "PSNR after noise reduction, dB",
    "val_ssim_noise_reduced": "SSIM after noise reduction",
    "val_psnr_gt_mean": "(GT-mean PSNR, dB)",
}
_NOT_LOSSES = {"step", "lr", "loss", "seconds", "bank", *_SCORES}


def write_report(run: Path) -> Path:
    """Write ``report.md`` and its curves from a run folder's log; works on unfinished runs.

    Args:
        run: Folder with ``log.jsonl`` and ``config.json``.

    Returns:
        The report.
    """
    records = read_log(run)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    planned = sum(phase["steps"] for phase in config["phases"])
    lines = [f"# {run.name}", ""]
    if not records:
        lines += ["No step has been run yet.", ""]
    else:
        last = records[-1]
        seconds = sum(record["seconds"] for record in records)
        lines += [
            f"{last['step']:,} of {planned:,} steps, {seconds / 3600:.2f} hours of computing, "
            f"{seconds / len(records):.2f} s per step.",
            "",
        ]
        lines += _validations(records)
        lines += _losses(run, records)
    lines += _pictures(run)
    lines += ["## Config", "", "```json", json.dumps(config, indent=1), "```", ""]
    if (run / "data.txt").is_file():
        lines += ["## Data", "", (run / "data.txt").read_text(encoding="utf-8")]
    with atomic_write(run / REPORT) as file:
        file.write("\n".join(lines).encode())
    return run / REPORT


def _validations(records: list[dict[str, Any]]) -> list[str]:
    scored = [record for record in records if "val_psnr" in record]
    if not scored:
        return []
    best = max(scored, key=lambda record: record["val_psnr"])
    # A run that an earlier version began lacks, up to where it was resumed, what that version did not score.
    shown = [name for name in _SCORES if any(name in record for record in scored)]
    lines = [
        "## Validation (teacher)",
        "",
        "| step | " + " | ".join(_SCORES[name] for name in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for record in scored:
        mark = "**" if record is best else ""
        cells = " | ".join(f"{mark}{record[name]:.4g}{mark}" if name in record else "" for name in shown)
        lines.append(f"| {mark}{record['step']}{mark} | {cells} |")
    return [*lines, "", "The best by plain PSNR in bold. GT-mean borrows the reference's brightness.", ""]


def _losses(run: Path, records: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(n for r in records for n in r if n not in _NOT_LOSSES))
    (run / CURVES).mkdir(exist_ok=True)
    lines = ["## Curves", ""]
    for title, series in (
        ("loss", ["loss"]),
        ("terms", names),
        ("validation PSNR", ["val_psnr", "val_psnr_noise_reduced", "val_psnr_gt_mean"]),
        ("learning rate", ["lr"]),
    ):
        # Of equal pictures PSNR is infinite, which no axis can show.
        points = {n: [(r["step"], r[n]) for r in records if n in r and math.isfinite(r[n])] for n in series}
        points = {n: p for n, p in points.items() if p}
        if not points:
            continue
        file = f"{CURVES}/{title.replace(' ', '-')}.svg"
        with atomic_write(run / file) as stream:
            stream.write(curve(title, points).encode())
        lines += [f"![{title}]({file})", ""]
    tail = records[-max(1, len(records) // 10) :]
    lines += ["## Terms, weighted, mean of the last tenth", "", "| term | value |", "|---|---|"]
    for name in names:
        values = [record[name] for record in tail if name in record]
        if values:
            lines.append(f"| {name} | {sum(values) / len(values):.4g} |")
    return [*lines, "", f"Every step is in `{LOG}`.", ""]


def _pictures(run: Path) -> list[str]:
    pictures = sorted((run / "pictures").glob("*.png")) if (run / "pictures").is_dir() else []
    lines = ["## Pictures", "", "Columns: input, student, teacher, and the reference where there is one.", ""]
    for picture in pictures[-6:]:
        lines += [f"![{picture.stem}](pictures/{picture.name})", ""]
    return lines if pictures else []


def curve(title: str, series: dict[str, list[tuple[int, float]]]) -> str:
    """A line chart of finite values as SVG; long series are averaged down to a few hundred points."""
    left, top, right, bottom = _MARGIN
    thinned = {name: _thin(points) for name, points in series.items()}
    flat = [point for points in thinned.values() for point in points]
    first, final = min(x for x, _ in flat), max(x for x, _ in flat)
    low, high = min(y for _, y in flat), max(y for _, y in flat)
    width, height = _SIZE[0] - left - right, _SIZE[1] - top - bottom
    x_scale, y_scale = width / max(final - first, 1), height / ((high - low) or 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_SIZE[0]}" height="{_SIZE[1]}" fill="white"/>',
    ]
    for i in range(5):
        value = low + (high - low) * i / 4
        y = top + height - (value - low) * y_scale
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for i, (name, points) in enumerate(thinned.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(
            f"{left + (x - first) * x_scale:.1f},{top + height - (y - low) * y_scale:.1f}" for x, y in points
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{left + 8}" y="{top + 12 + 13 * i}" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{left}" y="{_SIZE[1] - 8}">step {first}</text>')
    parts.append(
        f'<text x="{left + width}" y="{_SIZE[1] - 8}" text-anchor="end">{title}, step {final}</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _thin(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    size = -(-len(points) // _POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
