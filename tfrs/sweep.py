"""Runs that differ in a few settings: each in a process of its own, and one table of their scores."""

import csv
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from tfrs import repeats
from tfrs.errors import UserError, unknown
from tfrs.experiment import MULTI_WORKER, REPORT, Experiment, is_finished
from tfrs.storage import write_text
from tfrs.termination import TERMINATED, Terminated, deferred

REPEATS = ("seed", "fold")  # runs that differ in these alone are repetitions of one configuration
SETTINGS, TABLE = "sweep.json", "sweep"


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its `values` of the settings that vary, and its `folder`."""

    values: Mapping[str, str]
    folder: Path

    def scores(self) -> dict[str, float]:
        report = json.loads((self.folder / REPORT).read_text())
        return {name: value for name, value in report.items() if isinstance(value, float)}


def parse_grid(specs: Iterable[str]) -> dict[str, list[str]]:
    """Settings and their values from `name=value,value,...`; a value with a comma is quoted.

    Raises:
        UserError: A setting that there is not, that a sweep sets itself or that has no value, or one that stands twice.
    """
    known = [setting.name for setting in fields(Experiment) if setting.name != "run_dir"]
    varied: dict[str, list[str]] = {}
    for spec in specs:
        name, _, values = spec.partition("=")
        if name not in known:
            raise unknown("setting in --grid", name, known)
        found = next(csv.reader([values]), [])
        if not all(found) or not found:
            raise UserError(f"--grid={spec}: give {name}=VALUE,VALUE,...")
        if MULTI_WORKER in found:
            raise UserError(f"--grid={spec}: a sweep trains in one process; leave out {MULTI_WORKER}")
        if name in varied or len(set(found)) < len(found):
            raise UserError(f"--grid={spec}: {'the setting' if name in varied else 'a value'} stands twice")
        for value in found:
            _check(name, value)
        varied[name] = found
    if not varied:
        raise UserError("nothing varies; give --grid=SETTING=VALUE,VALUE,... at least once")
    return varied


def _check(name: str, value: str) -> None:
    """Refuse now what would stop the last run of a long sweep."""
    try:
        Experiment.from_flags(f"--{name}={value}")
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--grid: {name} takes no {value!r} ({error})") from error


def runs_of(folder: Path, varied: Mapping[str, Iterable[str]]) -> list[Run]:
    """A run for every combination of the values; the last setting varies fastest."""
    runs = []
    for combination in itertools.product(*varied.values()):
        values = dict(zip(varied, combination, strict=True))
        name = "-".join(f"{setting}={value}" for setting, value in values.items())
        runs.append(Run(values, folder / "".join(c if c.isalnum() or c in "_=.-+" else "," for c in name)))
    return runs


def open_sweep(folder: Path, kind: str, fixed: Mapping[str, str]) -> None:
    """Note in the folder of a sweep what all its runs have in common.

    Raises:
        UserError: The folder belongs to a sweep with other settings, whose finished runs are no part of this one; its runs
            would need several processes, of which a sweep starts one.
    """
    if fixed.get("strategy") == MULTI_WORKER:
        raise UserError(
            "a sweep, or all folds, train one run after the other in one process: leave out --strategy=multi_worker"
        )
    wanted = {"experiment": kind, **fixed}
    path = folder / SETTINGS
    if path.exists() and (found := json.loads(path.read_text())) != wanted:
        names = [name for name in found | wanted if found.get(name) != wanted.get(name)]
        other = ", ".join(f"{name}: {found.get(name, 'unset')} there, {wanted.get(name, 'unset')} asked for" for name in names)
        raise UserError(f"{folder} holds a sweep with other settings ({other}); give another --run_dir, or delete the folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(wanted, indent=1) + "\n")


def run(folder: Path, kind: str, fixed: Mapping[str, str], varied: Mapping[str, Iterable[str]]) -> str:
    """Train what is not trained yet, and write the table of all finished runs; returns it as Markdown.

    Args:
        kind: Name of the command in `experiments` that trains.
        fixed: Settings of every run; all others have that command's defaults.

    Raises:
        UserError: A run failed; the others went on, and are in the table.
        Terminated: SIGTERM came; the same call continues.
    """
    open_sweep(folder, kind, fixed)
    runs = runs_of(folder, varied)
    failed = []
    for number, each in enumerate(runs, 1):
        print(f"run {number} of {len(runs)}: {each.folder}", flush=True)
        if not is_finished(each.folder) and not train(each, kind, fixed):
            failed.append(each)
    finished = [each for each in runs if each not in failed]
    table = repeats.rows((_configuration(each), each.scores()) for each in finished)
    if table:
        write_text(folder / f"{TABLE}.csv", repeats.to_csv(table))
        write_text(folder / f"{TABLE}.md", repeats.to_markdown(table))
    if failed:
        names = ", ".join(each.folder.name for each in failed)
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed, for the reasons above: {names}. The same command tries them again; "
            f"the table of the others is {folder / TABLE}.md"
        )
    return repeats.to_markdown(table)


def _configuration(each: Run) -> dict[str, str]:
    return {name: value for name, value in each.values.items() if name not in REPEATS}


def train(each: Run, kind: str, fixed: Mapping[str, str]) -> bool:
    """Train and score a run in another process, or go on where it was interrupted; whether it finished.

    A process of its own, since TensorFlow keeps devices, precision and memory of a run to the end of the process.

    Raises:
        Terminated: SIGTERM came, to this process, which passes it on, or to the other.
    """
    settings = {**fixed, **each.values, "run_dir": str(each.folder)}
    command = [sys.executable, "-m", f"experiments.{kind}", *(f"--{name}={value}" for name, value in settings.items())]
    begun: list[subprocess.Popen] = []
    with deferred(lambda: [child.terminate() for child in begun]) as signals, subprocess.Popen(command) as child:
        begun.append(child)
        if signals:  # it came before
            child.terminate()
        try:
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    if signals or status in (TERMINATED, -signal.SIGTERM):
        raise Terminated(f"SIGTERM: {each.folder} is interrupted; run the same command again to continue")
    return not status
