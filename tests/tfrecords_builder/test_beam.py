"""Beam's own direct runner; with Beam installed (the extra `beam`), which the other tests do not need."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BEAM = pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="apache-beam is not installed; extra 'beam'")
PROCESSES = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"


def build(root, out, *flags):
    command = [sys.executable, "-m", "tfrecords_builder", "--dataset=eurosat", f"--input={root}", f"--output={out}"]
    command += ["--shard_mb=0.5", "--workers=1", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sound(eurosat_tree, tmp_path_factory):
    """Every file of the records that the local runner wrote."""
    out = tmp_path_factory.mktemp("sound")
    assert build(eurosat_tree[0], out).returncode == 0
    return contents(out)


@BEAM
@pytest.mark.parametrize("options", ["--direct_num_workers=3 --direct_running_mode=multi_threading", PROCESSES])
def test_bytes_are_those_of_the_local_runner(eurosat_tree, sound, tmp_path, options):
    done = build(eurosat_tree[0], tmp_path, "--runner=beam", f"--beam_options={options}")
    assert done.returncode == 0, done.stderr
    assert len([name for name in sound if ".tfrecord-" in name]) == 9
    assert contents(tmp_path) == sound


@BEAM
@pytest.mark.parametrize("options", ["", PROCESSES], ids=["one", "processes"])
def test_error_of_a_worker_is_one_line_and_the_build_continues(eurosat_tree, sound, tmp_path, options):
    root, out = eurosat_tree[0], tmp_path
    assert build(root, out, "--task_index=1", "--task_count=2").returncode == 0
    blocked = out / "eurosat/1.0.0/eurosat-train.tfrecord-00000-of-00007"
    blocked.mkdir()  # a folder in the way of a shard
    failed = build(root, out, "--runner=beam", f"--beam_options={options}")
    assert failed.returncode == 1
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert "the Beam pipeline failed; the same command continues it: " in line
    assert f"{blocked.name}" in line
    assert "Is a directory; mend it and run the same command again" in line
    blocked.rmdir()
    assert build(root, out, "--runner=beam", f"--beam_options={options}").returncode == 0
    assert contents(out) == sound


def test_missing_beam_is_told(tmp_path, eurosat_tree):
    script = (
        "import sys, runpy\n"
        "sys.modules['apache_beam'] = None\n"
        f"sys.argv[1:] = ['--dataset=eurosat', '--input={eurosat_tree[0]}', '--output={tmp_path}/out', '--runner=beam']\n"
        "runpy.run_module('tfrecords_builder', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --runner=beam needs Apache Beam (")
    assert done.stderr.endswith("install it: pip install 'tfrs[beam]'\n")
    assert not (tmp_path / "out").exists()
