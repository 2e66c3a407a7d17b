import json
import subprocess
import sys

import pytest


@pytest.fixture
def builder(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "tfrecords_builder", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("name", ["bigearthnet", "bigearthnet_v2"])
def test_options_reach_the_records_and_their_manifest(builder, tmp_path, name):
    build = ["--dataset", name, "--synthesize", 20, "--workers", 1]
    result = builder(*build)
    assert (result.returncode, result.stderr) == (0, "")
    assert "left out: 1 with seasonal snow\n" in result.stdout
    path = tmp_path / f"records/{name}/1.0.0/manifest.json"
    manifest = json.loads(path.read_text())
    assert (manifest["spec"]["resampling"], manifest["spec"]["s1"]) == ("bilinear", True)
    assert [part["records"] for part in manifest["splits"].values()] == [11, 4, 4]

    other = builder(*build, "--resampling=cubic")
    assert other.returncode == 1
    assert "resampling: bilinear there, cubic asked for" in other.stderr

    result = builder(*build, "--native_resolution", "--nos1", "--keep_unrecommended", "--overwrite")
    assert result.returncode == 0
    assert "seasonal snow" not in result.stdout
    manifest = json.loads(path.read_text())
    assert {name: sensor["bands"] for name, sensor in manifest["sensors"].items()} == {
        "s2_10m": ["B02", "B03", "B04", "B08"],
        "s2_20m": ["B05", "B06", "B07", "B8A", "B11", "B12"],
        "s2_60m": ["B01", "B09"],
    }
    assert sum(part["records"] for part in manifest["splits"].values()) == 20
    verify = builder("verify", "records")
    assert (verify.returncode, verify.stdout) == (0, "ok: 20 records in 3 shards\n")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dataset=eurosat", "--resampling=cubic"], "--resampling is no option of data set eurosat; its options: none"),
        (
            ["--dataset=bigearthnet", "--noreference_map"],
            "--reference_map is no option of data set bigearthnet; its options: --re",
        ),
        (["--dataset=bigearthnet", "--resampling=lanczos"], "unknown resampling 'lanczos'"),
    ],
)
def test_option_that_the_data_set_does_not_have(builder, flags, message):
    result = builder(*flags)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")
