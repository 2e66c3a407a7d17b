"""The table of a run's epochs."""

import csv
from pathlib import Path

from tfrs.storage import replacing


class History:
    """`history.csv`: a row per epoch; rows after the epoch that a run continues from are dropped."""

    def __init__(self, path: Path, epoch: int):
        self.path, self.rows = path, []
        if path.exists():
            with open(path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]

    def append(self, row: dict) -> None:
        self.rows.append(row)
        with replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(self.rows)
