import json

import pytest

from tfrs import reproduce, sweep
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.labels import IGBP_SIMPLIFIED, MULTISENGE_URBAN


@pytest.fixture
def trained(monkeypatch):
    """Runs are trained by writing their settings and a report; what they were given."""
    given = {}

    def train(each, kind, settings):
        given[each.folder.name] = (kind, dict(settings))
        (each.folder / "export").mkdir(parents=True)
        flags = "".join(f"--{name}={value}\n" for name, value in settings.items())
        (each.folder / "flags.txt").write_text(Experiment.from_flags(flags).to_flags())
        per_class = {name: {"f1": 0.9} for name in IGBP_SIMPLIFIED.classes}
        per_class |= {name: {"f1": None if i == 5 else 0.1 * i} for i, name in enumerate(MULTISENGE_URBAN.classes)}
        scores = {"average_f1": 0.5, "overall_f1": 0.25, "weighted_f1": 0.75, "overall_accuracy": 0.875, "per_class": per_class}
        (each.folder / "report.json").write_text(json.dumps(scores | {"heads": {"probabilities": scores}}))
        return True

    monkeypatch.setattr(sweep, "train", train)
    return given


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")][1:]


def test_sen12ms_has_two_models_and_three_inputs(trained, tmp_path):
    found = rows(reproduce.run("sen12ms4", "here", tmp_path, 0.05, {"batch_size": "8"}))
    assert len(found) == 66 and len(trained) == 6
    assert found[2 * 11 :][:2] + found[3 * 11 - 2 :][:2] == [
        ["resnet50-s1s2", "test", "Forest f1", "70.60", "90.00"],
        ["resnet50-s1s2", "test", "Shrubland f1", "50.20", "90.00"],
        ["resnet50-s1s2", "test", "average_f1", "63.90", "50.00"],
        ["resnet50-s1s2", "test", "overall_f1", "71.40", "25.00"],
    ]
    kind, settings = trained["densenet121-s2_ms"]
    assert kind == "classify"
    assert settings == {"records": "here", "model": "densenet121", "input": "s2_ms", "epochs": "5", "batch_size": "8"}


def test_multisenge_has_a_score_per_class(trained, tmp_path):
    found = rows(reproduce.run("multisenge4", "here", tmp_path, 1, {}))
    assert ["unet_vgg16-irrg", "test", "weighted_f1", "73.64", "75.00"] in found
    assert ["unet_vgg16-irrg_index", "test", "Sparse Built-Up f1", "58.64", "10.00"] in found
    assert found[-1] == ["unet_vgg16-irrg_index", "test", "Other f1", "85.79", "-"]
    weights = {name: settings["encoder_weights"] for name, (_, settings) in trained.items()}
    assert weights == {"unet_vgg16-irrg": "imagenet", "unet_vgg16-irrg_index": "none"}


def test_satimnet_pairs_training_and_test_sets(trained, tmp_path, monkeypatch):
    """Syrris et al. 2020, Table 4: each model is trained twice and tested on both sets."""
    asked = []
    report = {"overall_accuracy": 0.5, "heads": {"probabilities": {"overall_accuracy": 0.25}}}
    monkeypatch.setattr(reproduce, "_report", lambda place, where, test: asked.append((place.name, where)) or report)
    found = rows(reproduce.run("satimnet4", "here", tmp_path, 0.001, {}))
    numbers = {(run, test): (float(paper), float(here)) for run, test, _, paper, here in found}
    both, alone = "EuroSAT & BigEarthNet", "EuroSAT"
    assert numbers["cnn_class-EuroSAT", both] == (85.48, 50.0) and numbers["cnn_class-EuroSAT+BigEarthNet", alone] == (
        99.43,
        50.0,
    )
    assert numbers["cnn_dual-EuroSAT", alone] == (86.58, 25.0) and numbers["cnn_dual-EuroSAT+BigEarthNet", both] == (
        95.41,
        25.0,
    )
    assert asked == [(name, where) for name in trained for where in ("source=eurosat", "")]
    assert (
        trained["cnn_dual-EuroSAT"][1]["where"] == "source=eurosat"
        and "where" not in trained["cnn_dual-EuroSAT+BigEarthNet"][1]
    )
    assert trained["cnn_dual-EuroSAT"][1]["windows"] == trained["cnn_dual-EuroSAT"][1]["epochs"] == "1"


def test_it_goes_on_where_it_stopped(trained, tmp_path, monkeypatch):
    real = sweep.train
    monkeypatch.setattr(sweep, "train", lambda each, *rest: len(trained) < 2 and real(each, *rest))
    with pytest.raises(UserError, match="run resnet50-s1s2 failed, for the reason above"):
        reproduce.run("sen12ms4", "here", tmp_path, 1, {})
    monkeypatch.setattr(sweep, "train", real)
    trained.clear()
    reproduce.run("sen12ms4", "here", tmp_path, 1, {})
    assert len(trained) == 4


def test_sen12ms_has_the_averages_of_its_classes():
    """The paper's averages are over the nine classes that its test set has, so a slip in a number would show."""
    for entry in reproduce.sen12ms4():
        numbers = {path: number for (_, path), number in entry.published.items()}
        classes = [number for path, number in numbers.items() if path[0] == "per_class"]
        assert len(classes) == 9 and sum(classes) / 9 == pytest.approx(numbers[("average_f1",)], abs=0.06)


def test_finished_runs_are_not_mixed_with_others(trained, tmp_path):
    text = reproduce.run("sen12ms4", "here", tmp_path, 1, {"batch_size": "8"})
    assert "Records `here`, scale 1, batch_size=8.\n" in text
    for name, scale, changes, other in (
        ("sen12ms4", 0.5, {"batch_size": "8"}, "scale: 1 there, 0.5 asked for"),
        ("sen12ms4", 1, {}, "batch_size: 8 there, unset asked for"),
        ("multisenge4", 1, {"batch_size": "8"}, "experiment: sen12ms4 there, multisenge4 asked for"),
    ):
        with pytest.raises(UserError, match=other):
            reproduce.run(name, "here", tmp_path, scale, changes)


def test_conditions_belong_to_the_table(trained, tmp_path):
    with pytest.raises(UserError, match="--set=where: this table's runs differ in the records"):
        reproduce.run("satimnet4", "here", tmp_path, 1, {"where": "label=River"})
    assert not trained


@pytest.mark.parametrize(("name", "meant"), [("epoch", "epochs"), ("records", ""), ("folds", "")])
def test_changes_are_of_settings(trained, tmp_path, name, meant):
    with pytest.raises(UserError, match=f"unknown setting in --set '{name}'.*{meant}"):
        reproduce.run("sen12ms4", "here", tmp_path / "table", 1, {name: "3"})
    assert not trained and not (tmp_path / "table").exists()
