"""Tables of the papers: their runs, and what came out beside what was published."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from tfrs import sweep
from tfrs.errors import UserError, unknown
from tfrs.experiment import REPORT, Experiment, is_finished, read_run
from tfrs.labels import MULTISENGE_URBAN
from tfrs.storage import write_text
from tfrs.sweep import Run

EUROSAT = "source=eurosat"  # of the records of SatImNet's fusion


@dataclass(frozen=True)
class Entry:
    """A run of a table.

    Attributes:
        name: Of the run, and of its folder.
        kind: Name of the command in `experiments` that trains.
        settings: What it is given beside the records.
        published: Test set and path of a score in its report -> the number of the paper, in per cent.
        tests: Test set -> condition on the records (`--where`) in place of the run's own; where it is not named, the run's own.
    """

    name: str
    kind: str
    settings: Mapping[str, str]
    published: Mapping[tuple[str, tuple[str, ...]], float]
    tests: Mapping[str, str] = field(default_factory=dict)


def sen12ms4() -> Iterator[Entry]:
    """Schmitt & Wu 2021, Table 4."""
    published = {  # per row: ResNet50, then DenseNet121, each with S2_RGB, S2_MS, S1+S2; no patch is Snow/Ice
        ("per_class", "Forest", "f1"): (60.9, 69.3, 70.6, 65.4, 68.9, 70.6),
        ("per_class", "Shrubland", "f1"): (56.0, 50.2, 50.2, 58.3, 43.2, 45.0),
        ("per_class", "Savanna", "f1"): (79.3, 78.5, 79.9, 76.7, 80.2, 85.4),
        ("per_class", "Grassland", "f1"): (50.5, 58.4, 64.5, 50.9, 57.4, 60.0),
        ("per_class", "Wetlands", "f1"): (11.0, 62.6, 55.8, 26.5, 53.7, 55.9),
        ("per_class", "Croplands", "f1"): (63.4, 66.9, 64.3, 66.3, 59.1, 63.2),
        ("per_class", "Urban/Built-up", "f1"): (82.8, 82.6, 84.1, 84.1, 84.9, 83.1),
        ("per_class", "Barren", "f1"): (1.3, 0.0, 11.5, 8.0, 0.6, 8.7),
        ("per_class", "Water", "f1"): (70.4, 93.0, 93.7, 69.8, 93.8, 93.7),
        ("average_f1",): (52.9, 62.4, 63.9, 56.2, 60.2, 62.8),
        ("overall_f1",): (66.5, 69.9, 71.4, 66.9, 68.9, 72.0),
    }
    pairs = [(model, name) for model in ("resnet50", "densenet121") for name in ("s2_rgb", "s2_ms", "s1s2")]
    for i, (model, name) in enumerate(pairs):
        scores = {("test", path): numbers[i] for path, numbers in published.items()}
        yield Entry(f"{model}-{name}", "classify", {"model": model, "input": name, "epochs": "100"}, scores)


def multisenge4() -> Iterator[Entry]:
    """Wenger et al. 2022, Tables 3 and 4."""
    published = {
        ("irrg", "imagenet"): (73.64, 51.99, 65.65, 50.90, 31.41, 58.62, 85.49),
        ("irrg_index", "none"): (72.14, 48.22, 58.64, 53.72, 20.48, 42.95, 85.79),
    }
    paths = [("weighted_f1",), *(("per_class", name, "f1") for name in MULTISENGE_URBAN.classes)]
    for (name, weights), numbers in published.items():
        settings = {"model": "unet_vgg16", "input": name, "scheme": MULTISENGE_URBAN.name, "encoder_weights": weights}
        scores = {("test", path): number for path, number in zip(paths, numbers, strict=True)}
        yield Entry(f"unet_vgg16-{name}", "segment", {**settings, "epochs": "100"}, scores)


def satimnet4() -> Iterator[Entry]:
    """Syrris et al. 2020, Table 4: the best of ten folds there, one division into training and test here."""
    tests = {"EuroSAT": EUROSAT, "EuroSAT & BigEarthNet": ""}
    settings = {
        "classify": {"model": "cnn_class", "input": "s2_10m", "learning_rate": "0.01", "decay": "0", "epochs": "50"},
        "dual": {"model": "cnn_dual", "windows": "600", "epochs": "20"},
    }
    scores = {"classify": ("overall_accuracy",), "dual": ("heads", "probabilities", "overall_accuracy")}
    published = {"classify": (98.11, 85.48, 99.43, 99.37), "dual": (86.58, 81.01, 91.26, 95.41)}
    for kind, (alone, alone_on_both, both_on_eurosat, both) in published.items():
        for trained, numbers in (("EuroSAT", (alone, alone_on_both)), ("EuroSAT & BigEarthNet", (both_on_eurosat, both))):
            name = f"{settings[kind]['model']}-{trained.replace(' & ', '+')}"
            where = {"where": tests[trained]} if tests[trained] else {}
            paths = {(test, scores[kind]): number for test, number in zip(tests, numbers, strict=True)}
            yield Entry(name, kind, settings[kind] | where, paths, tests)


TABLES = {"satimnet4": (satimnet4, "records/fusion"), "sen12ms4": (sen12ms4, "records/sen12ms")}
TABLES["multisenge4"] = (multisenge4, "records/multisenge")


def run(name: str, records: str, folder: Path, scale: float, changes: Mapping[str, str]) -> str:
    """Train what is not trained yet, write `table.md`, and return it.

    Args:
        name: One of `TABLES`.
        scale: Factor of epochs and windows, for a run that is smaller than the paper's.
        changes: Settings that replace those of the table.

    Raises:
        UserError: A change is of no setting, or of one that is the table's; a run failed; or the folder belongs to another
            table, or to one with other records, scale or changes.
    """
    entries, _ = TABLES[name]
    title = entries.__doc__.strip()
    known = [setting.name for setting in fields(Experiment) if setting.name not in ("records", "run_dir", "folds", "fold")]
    for setting in changes:
        if setting not in known:  # told now, before the folder is that of a table with this change
            raise unknown("setting in --set", setting, known)
    if "where" in changes and any(entry.tests for entry in entries()):
        raise UserError("--set=where: this table's runs differ in the records that they are trained and tested on")
    sweep.open_sweep(folder, name, {"records": records, "scale": f"{scale:g}", **changes})
    changed = "".join(f", {setting}={value}" for setting, value in changes.items())
    lines = [f"# {title}", "", f"Records `{records}`, scale {scale:g}{changed}.", ""]
    lines += ["| Run | Tested on | Score | Paper | Here |", "|---|---|---|---:|---:|"]
    for entry in entries():
        place = folder / entry.name
        settings = {"records": records, **entry.settings, **changes}
        numbers = {key: str(max(1, round(scale * int(settings[key])))) for key in ("epochs", "windows") if key in settings}
        print(f"run {entry.name}: {place}", flush=True)
        if not is_finished(place) and not sweep.train(Run({}, place), entry.kind, settings | numbers):
            raise UserError(f"run {entry.name} failed, for the reason above; the same command goes on with it")
        for (test, path), published in entry.published.items():
            value = _report(place, entry.tests.get(test, settings.get("where", "")), test)
            for part in path:
                value = value[part]
            here = "-" if value is None else f"{100 * value:.2f}"
            score = " ".join(part for part in path if part not in ("heads", "per_class", "probabilities"))
            lines.append(f"| {entry.name} | {test} | {score} | {published:.2f} | {here} |")
    text = "\n".join(lines) + "\n"
    write_text(folder / "table.md", text)
    return text


def _report(place: Path, where: str, test: str) -> dict:
    """The report of a run on its test split, or on that of other records; written once."""
    experiment = read_run(place)
    if ",".join(experiment.where) == where:
        return json.loads((place / REPORT).read_text())
    folder = place / "".join(c if c.isalnum() else "_" for c in f"test_{test}")
    if not (folder / REPORT).exists():
        from tfrs import assemble, evaluate

        folder.mkdir(exist_ok=True)
        other = replace(experiment, where=tuple(filter(None, [where])))
        records = assemble.records(other)
        task = assemble.task(other, records)
        evaluate.report(other, folder, records, task, evaluate.best_model(experiment, place, records, task), "test")
    return json.loads((folder / REPORT).read_text())
