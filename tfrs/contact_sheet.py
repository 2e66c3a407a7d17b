"""Patches of records as a figure and as text, before and after augmentation; without TensorFlow, so it starts at once."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping

import numpy as np

from tfrs import ops, plots
from tfrs.augment import dates, layers, seeds
from tfrs.errors import UserError
from tfrs.labels import lookup
from tfrs.records import Records
from tfrs.schema import Sample, Schema
from tfrs.sensors import Sensor, resolve, select

WIDTH = 26  # characters that fit over a patch
AUGMENTED = "augmented\n"
NO_DATA = (1.0, 0.0, 1.0)  # magenta, which no stretched landscape has
UNSAID = ("key", "crs")  # texts of a record that are not printed among its labels


def choose(records: Records, split: str, *, count: int, keys: list[str], seed: int) -> list[int]:
    """Numbers of the records with these keys or, without keys, of `count` records drawn with the seed.

    Raises:
        UserError: The split is unknown or empty, or has no record with a key.
    """
    records.check_files(split)
    table = records.index(split)
    if not len(table):
        raise UserError(f"{records.directory}: split {split!r} has no record" + " of the selection" * bool(records.selection))
    if not keys:
        return np.random.default_rng(seed).permutation(len(table))[:count].tolist()
    numbers = {key: np.flatnonzero(table["key"] == key.encode()) for key in keys}
    if missing := [key for key, found in numbers.items() if not len(found)]:
        example = table["key"][0].decode()
        raise UserError(f"{records.directory}: no record {missing[0]!r} in split {split!r}; keys are such as {example}")
    return [int(found[0]) for found in numbers.values()]


def show(
    records: Records,
    split: str,
    numbers: list[int],
    *,
    inputs: str = "",
    augment: Iterable[str] = (),
    date: str = "",
    seed: int = 0,
    epoch: int = 0,
) -> tuple[plots.Figure, str]:
    """A figure of records, with the same below as `pipeline.load` augments them, and what it shows as text.

    Args:
        inputs: As of `pipeline.load`; empty: all bands of all sensors.
        augment: As of `pipeline.load`. The neighbour of a record, for mixup and cutmix, is the next one of `numbers`.
        date: As of `pipeline.load`; empty: the first image of a series.

    Raises:
        UserError: As `pipeline.load`.
    """
    schema, augment = records.schema, list(augment)
    sensors = select(records.sensors, resolve(inputs, records.sensors)) if inputs else records.sensors
    # A weighted mean of maps means nothing.
    maps = [] if any(spec.partition(":")[0] == "mixup" for spec in augment) else schema.maps()
    if not date and any(schema.fields[name].series for name in sensors):
        date = dates.DATES[0]
    dates.check(records, sensors, date)
    samples = [records.sample(split, number) for number in numbers]
    drawn = seeds.of([sample["key"].encode() for sample in samples], seed, epoch)
    samples = [_single(sample, schema, date, own) for sample, own in zip(samples, drawn, strict=True)]
    positions = {name: records.sensors[name].index(sensor.bands) for name, sensor in sensors.items()}
    positions |= {name: (0,) for name in maps}
    before = {name: np.stack([sample[name][list(bands)] for sample in samples]) for name, bands in positions.items()}
    rows = _rows(before, before, sensors, schema)
    title = f"{records.name}, {split}" + (f", {date} date" if date else "")
    lines, captions = [_described(sample, schema) for sample in samples], [""] * len(samples)
    if augment:
        schema.check_sizes(before)
        chain = ops.parse(augment, layers.of(records, sensors, maps))
        around = np.arange(len(samples) + (chain.mixing is not None)) % len(samples)
        after, share = ops.apply(chain, {name: image[around] for name, image in before.items()}, drawn[around])
        after = {name: image[: len(samples)] for name, image in after.items()}
        rows |= {f"{AUGMENTED}{name}": row for name, row in _rows(after, before, sensors, schema).items()}
        title += f"; below: {', '.join(augment)} (seed {seed}, epoch {epoch}; magenta: no data)"
        if chain.mixing:
            captions = [_mixed(samples[i], samples[j], float(share[i]), schema) for i, j in itertools.pairwise(around)]
            lines = [f"{line}\n  {caption}" for line, caption in zip(lines, captions, strict=True)]
    schemes = {f"{prefix}{name}": schema.scheme(name) for name in maps for prefix in ("", AUGMENTED)}
    titles = [_wrapped([sample["key"], *_texts(sample, schema), *_labels(sample, schema)]) for sample in samples]
    captions = [_wrapped(caption.split("; ")) for caption in captions]
    return plots.records(rows, schemes, titles, captions, title), "\n".join([title, *lines])


def _single(sample: Sample, schema: Schema, date: str, seed: np.uint64) -> Sample:
    """A sample with one image of each of its series, and that image's date."""
    series = [name for name, field in schema.fields.items() if field.series]
    if not series:
        return sample
    steps = len(sample[series[0]])
    (number,) = dates.chosen(date, np.array([seed]), np.array([steps]))
    listed = {name: sample[name].split(",") for name, field in schema.fields.items() if field.kind == "text"}
    single = {name: sample[name][number] for name in series}
    return sample | single | {name: parts[number] for name, parts in listed.items() if len(parts) == steps > 1}


def _rows(images: layers.Images, like: layers.Images, sensors: Mapping[str, Sensor], schema: Schema) -> layers.Images:
    """Rows of the figure: sensors in the stretch of the images `like`, magenta where they have no data; maps as class ids."""
    rows = {}
    for name, batch in images.items():
        if name not in sensors:
            table = lookup(schema.fields[name].scheme, schema.scheme(name))
            rows[name] = table[np.minimum(batch[:, 0], len(table) - 1)]
            continue
        sensor = sensors[name]
        bands = sensor.display()
        shown, other = (image[:, list(sensor.index(bands))] for image in (batch, like[name]))
        absent, other_absent = (layers.Layer(sensor.nodata).missing(image) for image in (shown, other))
        if other.dtype != np.uint8:
            other = np.where(other_absent, np.nan, other)
        picture = plots.displayable(shown, other)
        picture = picture if picture.ndim == 4 else np.stack([picture] * 3, axis=-1)
        picture[absent.any(axis=1)] = NO_DATA
        rows[f"{name}\n{' '.join(bands)}"] = picture
    return rows


def _labels(sample: Sample, schema: Schema) -> dict[str, float]:
    """Classes of a sample and how much each holds: its labels, else its label, else its fractions."""
    kinds = ("labels", "label", "fractions")
    found = [(kind, name) for kind in kinds for name, field in schema.fields.items() if field.kind == kind]
    if not found:
        return {}
    kind, name = found[0]
    classes = schema.scheme(name).classes
    if kind == "fractions":
        return {classes[i]: float(sample[name][i]) for i in np.flatnonzero(sample[name])}
    return dict.fromkeys((classes[i] for i in np.atleast_1d(sample[name])), 1.0)


def _texts(sample: Sample, schema: Schema) -> list[str]:
    """Dates and the like."""
    return [f"{name} {sample[name]}" for name, field in schema.fields.items() if field.kind == "text" and name not in UNSAID]


def _described(sample: Sample, schema: Schema) -> str:
    """A sample's key, dates and labels in one line."""
    parts = _texts(sample, schema)
    for name, field in schema.fields.items():
        if field.kind in ("label", "labels"):
            classes = schema.scheme(name).classes
            parts.append(f"{name} {', '.join(classes[i] for i in np.atleast_1d(sample[name])) or 'none'}")
        elif field.kind == "fractions":
            order = [i for i in np.argsort(-sample[name], kind="stable") if sample[name][i]]
            parts.append(f"{name} " + ", ".join(f"{schema.scheme(name).classes[i]} {sample[name][i]:.1%}" for i in order))
    return f"{sample['key']}: " + "; ".join(parts)


def _mixed(own: Sample, other: Sample, share: float, schema: Schema) -> str:
    """Shares of both samples, and the labels that they sum up to."""
    labels, others = _labels(own, schema), _labels(other, schema)
    sums = {name: share * labels.get(name, 0) + (1 - share) * others.get(name, 0) for name in labels | others}
    return f"{share:.0%} and {1 - share:.0%} of {other['key']}; " + "; ".join(
        f"{name} {part:.2f}" for name, part in sums.items()
    )


def _wrapped(texts: Iterable[str]) -> str:
    return "\n".join(textwrap.fill(text, WIDTH) for text in texts)
