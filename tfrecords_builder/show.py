"""What is in a set of records, in words, tables and a figure; all from the manifest and the quarantine list."""

from pathlib import Path

import numpy as np

from tfrecords_builder import dates
from tfrecords_builder.quarantine import parse, tally
from tfrs.errors import UserError
from tfrs.labels import MERGES, Scheme, merge_matrix
from tfrs.records import QUARANTINE, Records
from tfrs.storage import replacing

DENSE = "dense"
FORMS = {"fractions": DENSE, "label": "single label", "labels": "multi label"}
FIGURE = "class_distribution.png"
REASONS = 10  # as many reasons of quarantine are listed, the most frequent ones, and as many records as examples


def legends(records: Records) -> list[Scheme]:
    """The class schemes of the patch labels, that of `label` first; that of the fractions where there are no others."""
    fields = records.schema.fields.values()
    names = [spec.scheme for kind in ("label", "labels") for spec in fields if spec.kind == kind]
    names = names or [spec.scheme for spec in fields if spec.kind == "fractions"]
    return [records.schema.schemes[name] for name in dict.fromkeys(names)]


def class_counts(records: Records, split: str, legend: Scheme) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per form of the labels, what the manifest counts of each class of a legend, and that as a share in percent.

    The dense form counts records' worth of labelled pixels, merged into the legend, the others the records that carry the
    class.
    """
    counts, n, forms = records.manifest["splits"][split]["classes"], records.count(split), {}
    for kind, form in FORMS.items():
        for name, spec in records.schema.fields.items():
            same = spec.scheme == legend.name
            if spec.kind == kind and (same or (kind == "fractions" and (spec.scheme, legend.name) in MERGES)):
                found = np.array(counts[name])
                if kind == "fractions":
                    found = n * (found @ merge_matrix(spec.scheme, legend.name).astype(np.float64))
                forms[form] = found, 100 * found / max(n, 1)
    return forms


def describe(records: Records) -> str:
    """All that is known of the records, as plain text."""
    manifest = records.manifest
    sections = [
        (_title(records), [f"  {records.directory}", f"  simulated: {'yes' if _simulated(records) else 'no'}"]),
        *([("Said at the build", [f"  {line}" for line in manifest["report"]])] if manifest.get("report") else []),
        ("Sensors", _table([(s.name, s.dtype, s.unit, " ".join(s.bands)) for s in records.sensors.values()], left=4)),
        ("Fields of a record", _table(_fields(records), left=3)),
        ("Splits", _table(_splits(records))),
        *(
            (f"Classes of {split} ({legend.name})", _table(_classes(records, split, legend)))
            for legend in legends(records)
            for split in manifest["splits"]
        ),
        ("Bands of train", _table(_bands(records), left=2)),
        *((title, _table(rows)) for title, rows in dates.sections(records)),
        *_disagreement(records),
        (f"In quarantine: {manifest['quarantined']}", _reasons(records)),
    ]
    return "\n\n".join("\n".join([title, *lines]) for title, lines in sections)


def summary(records: Records) -> str:
    """What a build has left, in a few lines."""
    lines = _table([(split, f"{records.count(split)} records") for split in records.manifest["splits"]])
    if records.manifest["quarantined"]:
        lines.append(f"  in quarantine: {records.manifest['quarantined']}, see {records.directory / QUARANTINE}")
    if differing := disagreement(records):
        lines.append(
            f"  labels differ from the map in {len(differing)} record{'s' * (len(differing) > 1)}, e.g. {differing[0]}"
        )
    return "\n".join(lines)


def disagreement(records: Records) -> list[str]:
    """Keys of the records whose labels, given beside a map of the same classes, are not the classes of the map."""
    fields = records.schema.fields
    if not {"labels", "fractions"} <= fields.keys() or fields["labels"].scheme != fields["fractions"].scheme:
        return []
    keys = []
    for split in records.manifest["splits"]:
        table = records.index(split)
        differs = (table["labels"].astype(bool) != (table["fractions"] > 0)).any(axis=1)
        keys += [key.decode() for key in table["key"][differs]]
    return keys


def draw_class_distribution(records: Records) -> Path:
    """Draw the class shares of every split into the folder of the records, as Schmitt & Wu 2021, Fig. 2.

    Of several schemes of labels, it is the first.
    """
    from tfrs import plots

    legend = legends(records)[0]
    panels = {
        f"{split} ({records.count(split):,} records)": {
            f"{form} (share of {'labelled pixels' if form == DENSE else 'records'})": share
            for form, (_, share) in class_counts(records, split, legend).items()
        }
        for split in records.manifest["splits"]
    }
    path = records.directory / FIGURE
    with replacing(path) as temporary:
        plots.save(plots.class_distribution(legend, panels, _title(records)), temporary)
    return path


def _title(records: Records) -> str:
    return f"{records.name} {records.manifest['version']}{' (simulated)' if _simulated(records) else ''}"


def _simulated(records: Records) -> bool:
    return records.manifest["spec"].get("simulated", False)


def _fields(records: Records) -> list[tuple[str, ...]]:
    rows = []
    for name, spec in records.schema.fields.items():
        shape = "x".join(map(str, spec.shape)).replace("-1", "T")
        classes = f"of {records.schema.classes(name)} classes ({spec.scheme})" if spec.scheme else ""
        rows.append((name, spec.kind, f"{spec.dtype} {shape} {classes}".strip()))
    return rows


def _splits(records: Records) -> list[tuple[str, ...]]:
    rows = [("split", "records", "shards", "MB")]
    for name, split in records.manifest["splits"].items():
        size = sum(shard["bytes"] for shard in split["shards"]) / 1e6
        rows.append((name, str(records.count(name)), str(len(split["shards"])), f"{size:.1f}"))
    return rows


def _classes(records: Records, split: str, legend: Scheme) -> list[tuple[str, ...]]:
    columns = [("class", *legend.classes, "sum")]
    for form, (counts, shares) in class_counts(records, split, legend).items():
        if form != DENSE:
            columns.append((form, *map(str, counts), str(counts.sum())))
        columns.append((f"{DENSE} %" if form == DENSE else "%", *(f"{share:.2f}" for share in shares), f"{shares.sum():.2f}"))
    return list(zip(*columns, strict=True))


def _bands(records: Records) -> list[tuple[str, ...]]:
    rows = [("sensor", "band", "mean", "std", "min", "max", "NaN", "nodata")]
    for sensor, bands in records.statistics.items():
        for band, measured in bands.items():
            numbers = (measured[key] for key in ("mean", "std", "min", "max"))
            cells = ("-" if number is None else f"{number:.2f}" for number in numbers)
            rows.append((sensor, band, *cells, str(measured["nan"]), str(measured["nodata"])))
    return rows


def _reasons(records: Records) -> list[str]:
    path = records.directory / QUARANTINE
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        reasons = tally(map(parse, lines))
    except ValueError as error:
        raise UserError(
            f"{path}: damaged ({error}); python -m tfrecords_builder verify {records.directory} names the lines"
        ) from error
    rows = [(f"{count} x", reason) for reason, count in reasons.most_common(REASONS)]
    if len(reasons) > REASONS:
        rows.append((f"{reasons.total() - sum(n for _, n in reasons.most_common(REASONS))} x", "other reasons"))
    return _table(rows, left=2) if rows else []


def _disagreement(records: Records) -> list[tuple[str, list[str]]]:
    keys = disagreement(records)
    more = [f"  and {len(keys) - REASONS} more"] if len(keys) > REASONS else []
    return [(f"Labels that differ from the map: {len(keys)}", [*(f"  {k}" for k in keys[:REASONS]), *more])] if keys else []


def _table(rows: list[tuple[str, ...]], left: int = 1) -> list[str]:
    """Rows as aligned lines, the first `left` columns to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
