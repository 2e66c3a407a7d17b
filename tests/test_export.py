import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from small_records import write_records

from tfrs import assemble
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.export import export, read_card
from tfrs.labels import IGBP_SIMPLIFIED
from tfrs.models.normalize import Normalize

BANDS = {"s2": ("B12", "B03", "B8A"), "s1": ("VH", "VV")}
POSITIONS = {"s2": [11, 2, 12], "s1": [1, 0]}  # in the file, where B8A comes last
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf

images = np.load(sys.argv[1])
for folder in sys.argv[2:]:
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    found = serve(**{name: tf.constant(images[name]) for name in images})
    takes = {name: [spec.shape.as_list(), spec.dtype.name] for name, spec in serve.structured_input_signature[1].items()}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:  # as the server and programs in C++ load it
        rest = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def["serving_json"]
        assert {tf.as_dtype(info.dtype).name for info in rest.inputs.values()} == {"int32", "float32"}
        given = {rest.inputs[name].name: json.loads(json.dumps(images[name].tolist())) for name in images}
        again = session.run({name: info.name for name, info in rest.outputs.items()}, given)
    for name, value in found.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-5)
    print(json.dumps({"takes": takes, "gives": {name: value.numpy().tolist() for name, value in found.items()}}))
assert not {name for name in sys.modules if name.split(".")[0] == "tfrs"}
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=20, val=5, test=5)


@pytest.fixture(scope="module")
def raw(records):
    """Every patch of the training split as the records hold it, in file order."""
    samples = list(records.samples("train"))
    return {name: np.stack([sample[name] for sample in samples]) for name in ("s2", "s1")}


def known_model(raw, sensors=("s2", "s1")):
    """Normalised values, mean over the pixels, one dense layer; and the same by NumPy."""
    rng = np.random.default_rng(0)
    bands = {name: BANDS[name] for name in sensors}
    kernel = rng.normal(size=(sum(map(len, bands.values())), 10)).astype("float32")
    bias = rng.normal(size=10).astype("float32")
    chosen = {name: raw[name][:, POSITIONS[name]].astype(float) for name in sensors}
    mean, std = ({name: getattr(v, how)(axis=(0, 2, 3)) for name, v in chosen.items()} for how in ("mean", "std"))
    inputs = {name: keras.Input((len(b), None, None), dtype=raw[name].dtype.name, name=name) for name, b in bands.items()}
    planes = [Normalize(mean[name], std[name])(image) for name, image in inputs.items()]
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Concatenate()(planes))
    dense = keras.layers.Dense(10)
    model = keras.Model(inputs, dense(pooled))
    dense.set_weights([kernel, bias])
    scored = [(chosen[name].mean(axis=(2, 3)) - mean[name]) / std[name] for name in bands]
    return model, np.concatenate(scored, axis=1) @ kernel + bias


TASKS = "single_label", "multi_label"


@pytest.fixture(scope="module")
def exports(records, raw, tmp_path_factory):
    """Of each task: the experiment, its export, and the logits that the model must find."""
    made = {}
    for name in TASKS:
        folder = tmp_path_factory.mktemp("run")
        experiment = Experiment(input="B12,B03,B8A,VH,VV", task=name, run_dir=str(folder))
        model, logits = known_model(raw)
        task = assemble.task(experiment, records)
        target = export(experiment, folder, records, task, model, {"average_f1": 0.5, "per_class": {"Forest": {"f1": None}}})
        assert target == folder / "export" and [path.name for path in folder.iterdir()] == ["export"]
        made[name] = experiment, target, logits
    return made


@pytest.fixture(params=TASKS)
def exported(request, exports):
    return exports[request.param]


@pytest.fixture(scope="module")
def served(exports, raw, tmp_path_factory):
    """What the exports take and give in a process that knows nothing but TensorFlow."""
    images = {name: raw[name][:, positions] for name, positions in POSITIONS.items()}
    assert images["s2"].dtype == np.uint16 and images["s1"].dtype == np.float32
    path = tmp_path_factory.mktemp("serve") / "images.npz"
    np.savez(path, **images)
    command = [sys.executable, "-c", SERVE, str(path), *(str(folder) for _, folder, _ in exports.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(zip(exports, map(json.loads, done.stdout.splitlines()), strict=True))


def test_raw_values_in_probabilities_out(exported, served):
    experiment, _, logits = exported
    found = served[experiment.task]
    assert found["takes"] == {"s2": [[None, 3, None, None], "uint16"], "s1": [[None, 2, None, None], "float32"]}
    assert list(found["gives"]) == ["probabilities"]
    expected = scipy.special.softmax(logits, axis=1) if experiment.task == "single_label" else scipy.special.expit(logits)
    np.testing.assert_allclose(found["gives"]["probabilities"], expected, rtol=1e-3, atol=1e-5)
    if experiment.task == "single_label":
        np.testing.assert_allclose(np.sum(found["gives"]["probabilities"], axis=1), 1, rtol=1e-5)


def test_card(exported, records, raw):
    experiment, folder, _ = exported
    card = json.loads((folder / "card.json").read_text(), parse_constant=pytest.fail)
    assert card["task"] == experiment.task and card["model"] == "resnet50"
    assert {name: tuple(sensor["bands"]) for name, sensor in card["inputs"].items()} == BANDS
    assert [card["inputs"][name]["dtype"] for name in BANDS] == ["uint16", "float32"]
    assert [card["inputs"][name]["unit"] for name in BANDS] == ["digital number (reflectance x 10,000)", "decibel"]
    assert [entry["name"] for entry in card["classes"]] == list(IGBP_SIMPLIFIED.classes)
    assert card["classes"][9] == {"name": "Water", "number": 10, "color": "#1c0dff"}
    assert card["scheme"] == "igbp_simplified" and card["patch_size"] == 16
    assert card["normalization"]["statistics"] == "records"
    assert card["normalization"]["s1"]["mean"] == [card["statistics"]["s1"][band]["mean"] for band in BANDS["s1"]]
    assert card["scores"] == {"average_f1": 0.5, "per_class": {"Forest": {"f1": None}}}
    assert card["data"]["dataset"] == "small" and card["data"]["spec"]["patches"] == {"train": 20, "val": 5, "test": 5}
    assert Experiment.from_flags("\n".join(card["flags"])) == experiment
    assert card["versions"]["keras"] == keras.__version__
    for name, positions in POSITIONS.items():
        for band, position in zip(BANDS[name], positions, strict=True):
            pixels = raw[name][:, position].astype(float)
            found = card["statistics"][name][band]
            assert [found["mean"], found["std"]] == pytest.approx([pixels.mean(), pixels.std()], rel=1e-6)
    assert set(card["statistics"]["s2"]) == set(BANDS["s2"])


def test_export_again_takes_the_place_of_the_first(records, raw, tmp_path):
    experiment = Experiment(input="B12,B03,B8A,VH,VV", task="single_label", run_dir=str(tmp_path))
    task, (model, _) = assemble.task(experiment, records), known_model(raw)
    (tmp_path / "export.tmp").mkdir()
    (tmp_path / "export.tmp" / "of_an_interrupted_one").touch()
    for scores in ({"average_f1": 0.1}, {"average_f1": 0.2}):
        export(experiment, tmp_path, records, task, model, scores)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == [
        *("assets", "card.json", "fingerprint.pb", "saved_model.pb", "variables")
    ]
    assert read_card(tmp_path / "export")["scores"] == {"average_f1": 0.2}
    with pytest.raises(UserError, match=r"no card\.json that can be read; give the export folder of a finished run"):
        read_card(tmp_path)


@pytest.mark.skipif(
    not shutil.which("g++") and "CI" not in os.environ, reason="g++ is missing; continuous integration must have it"
)
def test_program_in_build_md(records, raw, tmp_path):
    """The program and its commands as they are written there, on a smaller patch."""
    model, logits = known_model(raw, ["s2"])
    experiment = Experiment(input=",".join(BANDS["s2"]), task="single_label", run_dir=str(tmp_path))
    export(experiment, tmp_path / "runs/NAME", records, assemble.task(experiment, records), model, {})
    text = (Path(__file__).parents[1] / "BUILD.md").read_text()
    ((program, commands),) = re.findall(r"```cpp\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
    (tmp_path / "classify.cc").write_text(program)
    raw["s2"][0, POSITIONS["s2"]].tofile(tmp_path / "patch.bin")
    linker = "g++ -fuse-ld=gold" if shutil.which("ld.gold") else "g++"  # 2 seconds in place of 6
    commands = commands.replace("13 64", "3 16").replace("g++", linker)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = np.array([float(line) for line in done.stdout.split()])
    np.testing.assert_allclose(found, scipy.special.softmax(logits[0]), rtol=1e-3, atol=1e-5)
    here = tf.saved_model.load(str(tmp_path / "runs/NAME/export")).signatures["serving_default"]
    (expected,) = here(s2=tf.constant(raw["s2"][:1, POSITIONS["s2"]]))["probabilities"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
