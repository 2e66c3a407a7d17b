import json
from types import SimpleNamespace

import pytest

from tfrecords_builder.simulate import is_simulated, simulate
from tfrs.errors import UserError


def dataset(name="eurosat", fail=False):
    def synthesize(root, n, seed):
        (root / "patches").write_text(f"{n} of {seed}")
        if fail:
            raise OSError(28, "No space left on device", str(root / "patches"))

    return SimpleNamespace(name=name, synthesize=synthesize)


@pytest.mark.parametrize("exists", [False, True])
def test_folder_appears_with_marker(tmp_path, exists):
    root = tmp_path / "data" / "eurosat"
    if exists:
        root.mkdir(parents=True)
    simulate(dataset(), root, 5, 7)
    assert (root / "patches").read_text() == "5 of 7"
    assert json.loads((root / "SIMULATED.json").read_text()) == {"patches": 5, "seed": 7, "dataset": "eurosat"}
    assert is_simulated(root)
    assert [path.name for path in root.parent.iterdir()] == ["eurosat"]


def test_same_simulation_is_reused(tmp_path):
    simulate(dataset(), tmp_path / "data", 5, 7)
    (tmp_path / "data" / "patches").write_text("untouched")
    simulate(dataset(), tmp_path / "data", 5, 7)
    assert (tmp_path / "data" / "patches").read_text() == "untouched"


@pytest.mark.parametrize("other", [(dataset(), 6, 7), (dataset(), 5, 8), (dataset("sen12ms"), 5, 7)])
def test_another_simulation_is_refused(tmp_path, other):
    simulate(dataset(), tmp_path / "data", 5, 7)
    another, *numbers = other
    with pytest.raises(UserError, match=r"other simulated data .* delete the folder or give another --input"):
        simulate(another, tmp_path / "data", *numbers)
    assert (tmp_path / "data" / "patches").read_text() == "5 of 7"


@pytest.mark.parametrize("is_file", [False, True])
def test_real_data_are_never_mixed(tmp_path, is_file):
    root = tmp_path / "data"
    if is_file:
        root.write_bytes(b"PK")
    else:
        root.mkdir()
        (root / "River_1.tif").write_bytes(b"real")
    with pytest.raises(UserError, match=r"data: holds data that are not simulated; give another --input"):
        simulate(dataset(), root, 5, 7)
    assert not is_simulated(root)


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r"patches: No space left on device"):
        simulate(dataset(fail=True), tmp_path / "data", 5, 7)
    assert list(tmp_path.iterdir()) == []


def test_remains_of_a_killed_run_are_replaced(tmp_path):
    remains = tmp_path / "data.tmp"
    remains.mkdir()
    (remains / "SIMULATED.json").write_text("{}")
    (remains / "half").write_text("x")
    simulate(dataset(), tmp_path / "data", 5, 7)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["SIMULATED.json", "patches"]


def test_somebody_elses_temporary_folder_is_kept(tmp_path):
    (tmp_path / "data.tmp").mkdir()
    (tmp_path / "data.tmp" / "precious").write_text("x")
    with pytest.raises(UserError, match=r"data\.tmp: File exists"):
        simulate(dataset(), tmp_path / "data", 5, 7)
    assert (tmp_path / "data.tmp" / "precious").exists()
