"""When the patches of a set of records were seen: dates per patch and month, and the days between Sentinel-1 and -2."""

import datetime
from collections import Counter, defaultdict

from tfrs.records import Records


def sections(records: Records) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Titles and tables; none for records that do not pair dates of Sentinel-2 with those of Sentinel-1.

    A field `date` holds one ISO date, or several separated by commas; `s1_date` the days of the Sentinel-1 images beside them.
    """
    if not {"date", "s1_date"} <= records.schema.fields.keys():
        return []
    seen: dict[str, list[datetime.date]] = defaultdict(list)
    apart: Counter[int] = Counter()
    for split in records.manifest["splits"]:
        for sample in records.samples(split):
            days = _days(sample["date"])
            seen[_patch(sample["key"], days)] += days
            apart.update(abs((s1 - s2).days) for s1, s2 in zip(_days(sample["s1_date"]), days, strict=True))
    return [
        (f"Dates of {len(seen)} patches by month", _by_month(seen)),
        ("Dates per patch", _per_patch(seen)),
        (
            "Distance of Sentinel-1 from Sentinel-2",
            [("days", "dates"), *((str(days), str(count)) for days, count in sorted(apart.items()))],
        ),
    ]


def _days(text: str) -> list[datetime.date]:
    return [datetime.date.fromisoformat(day) for day in text.split(",")]


def _patch(key: str, days: list[datetime.date]) -> str:
    """The key without its date, where it has one."""
    return key.replace(f"_{days[0]:%Y%m%d}_", "_")


def _by_month(seen: dict[str, list[datetime.date]]) -> list[tuple[str, ...]]:
    """Per month: dates, patches with any, and the largest number of one patch."""
    months: dict[str, list[int]] = defaultdict(list)
    for days in seen.values():
        for month, count in Counter(f"{day:%Y-%m}" for day in days).items():
            months[month].append(count)
    rows = [(month, str(sum(counts)), str(len(counts)), str(max(counts))) for month, counts in sorted(months.items())]
    return [("month", "dates", "patches", "most of a patch"), *rows]


def _per_patch(seen: dict[str, list[datetime.date]]) -> list[tuple[str, ...]]:
    numbers = Counter(map(len, seen.values()))
    return [("dates", "patches"), *((str(number), str(patches)) for number, patches in sorted(numbers.items()))]
