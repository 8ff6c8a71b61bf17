"""What a run writes about itself while it trains: JSON lines and CSV always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from ..files import atomic_write
from .config import TrainConfig
from .errors import TrainingError

LOG, TABLE = "log.jsonl", "log.csv"


class Journal:
    """The log of a run folder.

    Args:
        run: The folder.
        step: Step that the run continues from; later records belong to steps that will be run again and are dropped.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.run = run
        kept = [record for record in read_log(run) if record["step"] <= step]
        with atomic_write(run / LOG) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = (run / LOG).open("a", encoding="utf-8")
        self._board = _tensorboard(run, step)

    def write(self, record: dict[str, Any]) -> None:
        """Add the record of a step."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write the table and let go of the files."""
        self._file.close()
        write_table(self.run)
        if self._board is not None:
            self._board.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The records of a run folder; a last line that a crash cut short is left out.

    Raises:
        TrainingError: Another line is no record; the message names the file and the line.
    """
    log = run / LOG
    if not log.is_file():
        return []
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise TrainingError(
                f"Line {number} of {log} is not a record of a training step. Remove it, or choose another run_dir."
            )
        records.append(record)
    return records


def write_table(run: Path) -> None:
    """The log as CSV, with a column for everything that occurs in it."""
    records = read_log(run)
    columns = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    with atomic_write(run / TABLE) as file:
        file.write(text.getvalue().encode())


def _tensorboard(run: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)


def write_description(run: Path, config: TrainConfig, found: list[str]) -> None:
    """Write what the run is: its config, and what was found in its data, in words."""
    with atomic_write(run / "config.json") as file:
        file.write(json.dumps(config.to_dict(), indent=1).encode() + b"\n")
    with atomic_write(run / "data.txt") as file:
        file.write("".join(f"{line}\n" for line in found).encode())
