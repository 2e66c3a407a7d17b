import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfrs.errors import UserError
from tfrs.experiment import Experiment, open_run, place_run, read_run
from tfrs.labels import BIGEARTHNET_19, MULTISENGE

# A value of every kind of setting that a careless reader would change.
CHANGES = {
    "model": "densenet121",
    "input": "s2:B04,B03+s1:VV",
    "where": ("label=Forest|Savanna", "labels=Beaches, dunes, sands", 'fractions="a">=0.5'),
    "folds": 5,
    "records": "some where/with = sign",
    "run_dir": "runs/mine",
    "threshold": 0.30000000000000004,
    "threshold_inclusive": True,
    "augment": ("dihedral", "crop:128", "noise:0.05"),
    "ignore": (*BIGEARTHNET_19.classes, *MULTISENGE.classes, "Beaches", 'a "quoted" name'),
    "epochs": 7,
    "learning_rate": 1e-05,
    "seed": 2**32 - 1,
    "mixed_precision": "bfloat16",
}
SAME = Experiment(model="resnet_small", input="B04,B03", epochs=3)


@pytest.mark.parametrize("change", [{}, CHANGES, *({name: value} for name, value in CHANGES.items())], ids=str)
def test_flags_are_written_and_read_back(change):
    experiment = Experiment(**change)
    text = experiment.to_flags()
    assert Experiment.from_flags(text) == experiment
    names = [line.split("=")[0] for line in text.splitlines()]
    assert names == [f"--{field.name}" for field in dataclasses.fields(Experiment)]


def test_every_setting_has_a_help_and_a_type_that_flags_know():
    for field in dataclasses.fields(Experiment):
        assert field.metadata["help"]
        assert type(field.default) in (bool, int, float, str, tuple)


def test_experiment_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment().epochs = 3


def test_defaults_are_those_of_the_paper():
    """Schmitt & Wu 2021, section 3.3, and the reference code."""
    found = Experiment()
    assert (found.model, found.input, found.optimizer) == ("resnet50", "s2_ms", "adam")
    assert (found.learning_rate, found.decay, found.batch_size, found.epochs) == (1e-3, 1e-5, 64, 100)
    assert (found.threshold, found.threshold_inclusive, found.fusion) == (0.1, False, "early")


def as_command(*arguments, folder=None):
    """The settings that a command makes of its arguments, by absl in a process of its own."""
    script = (
        "import sys; from absl import flags as absl_flags; from tfrs import flags; flags.define(epochs=9);"
        "absl_flags.FLAGS(sys.argv); print(flags.experiment().to_flags(), end='');"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return Experiment.from_flags(done.stdout)


def test_commands_take_a_flag_for_every_setting(tmp_path):
    assert as_command() == Experiment(epochs=9)
    experiment = Experiment(**CHANGES)
    assert as_command(*experiment.to_flags().splitlines()) == experiment
    (tmp_path / "flags.txt").write_text(experiment.to_flags())
    assert as_command("--flagfile=flags.txt", folder=tmp_path) == experiment
    given = as_command("--flagfile=flags.txt", "--run_dir=other", "--nothreshold_inclusive", "--augment=", folder=tmp_path)
    assert given == dataclasses.replace(experiment, run_dir="other", threshold_inclusive=False, augment=())


def test_new_run_gets_a_folder_that_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment, folder = open_run(SAME, "classify")
    assert str(folder).startswith("runs/classify-resnet_small-B04-B03-20")
    assert experiment == dataclasses.replace(SAME, run_dir=str(folder))
    assert Experiment.from_flags((folder / "flags.txt").read_text()) == read_run(folder) == experiment


def test_unfinished_run_of_the_same_settings_is_continued(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = "runs/classify-resnet_small-B04-B03-20200101-000000"
    other = "runs/classify-resnet_small-B04-B03-20200102-000000"
    for name, experiment in ((begun, SAME), (other, dataclasses.replace(SAME, seed=1))):
        open_run(dataclasses.replace(experiment, run_dir=name), "classify")
    assert open_run(SAME, "classify")[1] == Path(begun)
    (Path(begun) / "report.json").write_text("{}")
    (Path(begun) / "export").mkdir()
    (Path(begun) / "export" / "card.json").write_text("{}")
    assert open_run(SAME, "classify")[1] not in (Path(begun), Path(other))


def test_the_newest_unfinished_run_is_continued(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for day in (1, 3, 2):
        open_run(dataclasses.replace(SAME, run_dir=f"runs/classify-resnet_small-B04-B03-2020010{day}-000000"), "classify")
    assert str(open_run(SAME, "classify")[1]).endswith("20200103-000000")


def test_run_of_another_input_or_kind_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("classify-resnet_small-s1-20200101-000000", "segment-resnet_small-B04-B03-20200101-000000"):
        open_run(dataclasses.replace(SAME, run_dir=f"runs/{name}"), "classify")
    assert "20200101" not in str(open_run(SAME, "classify")[1])


def test_several_processes_need_the_name_of_the_folder():
    with pytest.raises(UserError, match=r"--strategy=multi_worker needs --run_dir, the same for all processes"):
        place_run(dataclasses.replace(SAME, strategy="multi_worker"), "classify")


def test_folder_of_other_settings_is_refused(tmp_path):
    folder = tmp_path / "run"
    wanted = dataclasses.replace(SAME, run_dir=str(folder))
    open_run(wanted, "classify")
    before = (folder / "flags.txt").read_bytes()
    message = r"run holds a run with other settings \(augment:  there, dihedral asked for, epochs: 3 there, 4 asked for\); give"
    with pytest.raises(UserError, match=message):
        open_run(dataclasses.replace(wanted, epochs=4, augment=("dihedral",)), "classify")
    assert (folder / "flags.txt").read_bytes() == before
    assert open_run(wanted, "classify")[1] == folder


def test_folder_may_be_named_by_another_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_run(dataclasses.replace(SAME, run_dir="run"), "classify")
    open_run(dataclasses.replace(SAME, run_dir=str(tmp_path / "run")), "classify")
    assert os.listdir(tmp_path) == ["run"]


def test_settings_of_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: no flags\.txt there; give the folder of a run with --run_dir"):
        read_run(tmp_path)


def test_settings_added_later_take_their_default(tmp_path):
    """A run of an older version has fewer flags, a newer one more; comments are a person's own."""
    (tmp_path / "flags.txt").write_text("# mine\n--model=resnet_small\n--of_tomorrow=1\n")
    assert read_run(tmp_path) == Experiment(model="resnet_small")


def test_classify_refuses_in_one_line_without_tensorflow(tmp_path):
    command = [sys.executable, "-m", "experiments.classify"]
    for arguments, status, message in [
        (["--epocs=3"], 2, "error: Unknown command line flag 'epocs'. Did you mean: epochs ?"),
        (["--epochs=many"], 2, "error: flag --epochs=many"),
        (["resnet50"], 1, "error: unexpected argument 'resnet50'"),
    ]:
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        (line,) = done.stderr.splitlines()
        assert done.returncode == status and line.startswith(message)
    assert os.listdir(tmp_path) == []
