import contextlib
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from tfrs import archive, archive_mount, registry, synthetic_bigearthnet, synthetic_multisenge
from tfrs.datasets.eurosat import EuroSat
from tfrs.datasets.multisenge import MultiSenGE
from tfrs.datasets.sen12ms import Sen12MS
from tfrs.errors import BadPatch, UserError

KEPT = {archive.INDEX, "lock", "lock-reading"}  # when what was unpacked has been deleted


def pack(target, files):
    """Write files (name in the archive -> path) into an archive of the kind that its suffix tells."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
            for number, (name, path) in enumerate(files.items()):
                out.write(path, name, zipfile.ZIP_STORED if number % 2 else None)
    elif target.suffix == ".zst":
        with pyarrow.output_stream(str(target), compression="zstd") as stream, tarfile.open(None, "w|", stream) as out:
            for name, path in files.items():
                out.add(path, name)
    else:
        with tarfile.open(target, "w" if target.suffix == ".tar" else "w:gz") as out:
            for name, path in files.items():
                out.add(path, name)


def sen12ms_archives(tree, folder, suffix, top=lambda season: f"{season}/"):
    """One archive per season and sensor, as SEN12MS is published."""
    folder.mkdir()
    for season in {path.name for path in tree.iterdir()}:
        for part in ("s1", "s2", "lc"):
            paths = sorted((tree / season).glob(f"{part}_*/*.tif"), reverse=True)
            pack(folder / f"{season}_{part}{suffix}", {f"{top(season)}{path.parent.name}/{path.name}": path for path in paths})
    return folder


def assert_same_samples(dataset, root, expected, count):
    read = 0
    for split in dataset.splits:
        keys = expected[0].index(expected[1], split)
        assert dataset.index(root, split) == keys
        for key in keys:
            sample, other, read = dataset.read(root, key), expected[0].read(expected[1], key), read + 1
            assert sample.keys() == other.keys()
            for name, value in other.items():
                np.testing.assert_array_equal(sample[name], value)
    assert read == count


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar", ".zip"])
@pytest.mark.parametrize("top", [lambda season: f"{season}/", lambda season: "./", lambda season: f"SEN12MS/{season}/"])
def test_sen12ms(sen12ms_tree, tmp_path, suffix, top):
    tree, dataset = sen12ms_tree[0], Sen12MS()
    folder = sen12ms_archives(tree, tmp_path / "in", suffix, top)
    root = archive_mount.mount(dataset, folder, tmp_path / "spool")
    assert_same_samples(dataset, root, (dataset, tree), 7)
    assert archive.origin(root) == folder
    archive_mount.release(root)
    assert set(os.listdir(tmp_path / "spool")) == KEPT


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
def test_bigearthnet(tmp_path, suffix):
    kind = registry.dataset("bigearthnet")
    tree, folder = tmp_path / "tree", tmp_path / "in"
    synthetic_bigearthnet.v1(tree, 6, 0)
    folder.mkdir()
    shutil.copytree(tree / "splits", folder / "splits")
    for top, name in (("BigEarthNet-v1.0", "S2-v1.0"), ("BigEarthNet-S1-v1.0", "S1-v1.0")):
        paths = sorted((tree / top).rglob("*.*"))
        pack(folder / f"BigEarthNet-{name}{suffix}", {str(path.relative_to(tree)): path for path in paths})
    root = archive_mount.mount(kind(), folder, tmp_path / "spool")
    dataset = kind().at(root)
    assert dataset.s1
    assert_same_samples(dataset, root, (kind().at(tree), tree), 6)
    assert dataset.left_out(root) == kind().left_out(tree)


@pytest.mark.parametrize("suffix", [".tar.zst", ".tar"])
def test_bigearthnet_v2(tmp_path, suffix):
    kind = registry.dataset("bigearthnet_v2")
    tree, folder = tmp_path / "tree", tmp_path / "in"
    synthetic_bigearthnet.v2(tree, 6, 0)
    folder.mkdir()
    shutil.copy(tree / "metadata.parquet", folder)
    for top in kind.folders:
        pack(folder / f"{top}{suffix}", {str(path.relative_to(tree)): path for path in sorted((tree / top).rglob("*.tif"))})
    root = archive_mount.mount(kind(), folder, tmp_path / "spool")
    dataset = kind().at(root)
    assert dataset.s1
    assert dataset.reference_map
    assert_same_samples(dataset, root, (kind().at(tree), tree), 6)
    assert dataset.left_out(root) == kind().left_out(tree)


def test_a_damaged_zst_is_named(eurosat_tree, tmp_path):
    file, tree = tmp_path / "EuroSAT_MS.tar.zst", eurosat_tree[0]
    pack(file, {str(path.relative_to(tree)): path for path in sorted(tree.rglob("*.tif"))})
    assert_same_samples(EuroSat(), archive_mount.mount(EuroSat(), file, tmp_path / "spool"), (EuroSat(), tree), 40)
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole[: len(whole) // 2], whole[:5], b"no zst" * 100):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"EuroSAT_MS\.tar\.zst: cannot be read as an archive .*Download it again"):
            archive_mount.mount(EuroSat(), file, tmp_path / "other")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_eurosat(eurosat_tree, tmp_path, suffix):
    tree, dataset = eurosat_tree[0], EuroSat()
    file = tmp_path / f"EuroSAT_MS{suffix}"
    pack(file, {str(path.relative_to(tree)): path for path in sorted(tree.rglob("*.tif"))})
    assert_same_samples(dataset, archive_mount.mount(dataset, file, tmp_path / "spool"), (dataset, tree), 40)
    if suffix != ".tar.gz":  # of itself it has no random access
        assert_same_samples(dataset, file, (dataset, tree), 40)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize("top", ["", "MultiSenGE/"])
def test_multisenge(tmp_path, suffix, top):
    tree, folder = tmp_path / "tree", tmp_path / "in"
    synthetic_multisenge.multisenge(tree, 4, 0)
    folder.mkdir()
    for name in MultiSenGE.folders:
        pack(folder / f"{name}{suffix}", {f"{top}{path.relative_to(tree)}": path for path in sorted((tree / name).iterdir())})
    count = sum(len(MultiSenGE().index(tree, split)) for split in MultiSenGE.splits)
    assert count > 4
    assert_same_samples(
        MultiSenGE(), archive_mount.mount(MultiSenGE(), folder, tmp_path / "spool"), (MultiSenGE(), tree), count
    )


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_of_another_data_set_is_named_and_leaves_nothing_unpacked(eurosat_tree, tmp_path, suffix):
    file = tmp_path / f"EuroSAT_MS{suffix}"
    pack(file, {str(path.relative_to(eurosat_tree[0])): path for path in eurosat_tree[0].rglob("*.tif")})
    for dataset in (Sen12MS(), MultiSenGE(), registry.dataset("bigearthnet")(), registry.dataset("eurosat_rgb")()):
        with pytest.raises(UserError, match=rf"^{re.escape(str(file))}: no {dataset.name} patch found; expected .+"):
            archive_mount.mount(dataset, file, tmp_path / "spool")
        assert set(os.listdir(tmp_path / "spool")) <= KEPT


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("more", [0, 200], ids=["between two members", "within a header"])
def test_a_tar_that_was_cut_before_it_was_packed(eurosat_tree, tmp_path, suffix, more):
    """A gzip around it is whole then, and tarfile takes such an end for one."""
    tar, file = tmp_path / "whole.tar", tmp_path / f"EuroSAT_MS{suffix}"
    pack(tar, {str(path.relative_to(eurosat_tree[0])): path for path in eurosat_tree[0].rglob("*.tif")})
    with tarfile.open(tar) as whole:
        end = whole.getmembers()[20].offset + more
    content = tar.read_bytes()[:end]
    file.write_bytes(gzip.compress(content) if suffix == ".tar.gz" else content)
    with pytest.raises(
        UserError, match=rf"EuroSAT_MS{suffix}: cannot be read as an archive \(no end mark at .*\); is it complete"
    ):
        archive_mount.mount(EuroSat(), file, tmp_path / "spool")
    assert set(os.listdir(tmp_path / "spool")) <= KEPT


def test_tars_of_other_programs_are_whole(eurosat_tree, tmp_path):
    """Appended to, of blocks of 512 bytes, and with long names of both kinds."""
    long = "x" * 120
    for number, flags in enumerate((["--blocking-factor=1"], ["--format=pax"], ["--format=ustar"])):
        folder = shutil.copytree(eurosat_tree[0], tmp_path / str(number) / (long if number < 2 else "y"))
        tar = ["tar", *flags, "--file", str(tmp_path / f"{number}.tar"), "--directory", str(folder.parent)]
        names = [str(path.relative_to(folder.parent)) for path in sorted(folder.rglob("*.tif"))]
        subprocess.run([*tar, "--create", *names[:20]], check=True)
        subprocess.run([*tar, "--append", *names[20:]], check=True)
        root = archive_mount.mount(EuroSat(), tmp_path / f"{number}.tar", tmp_path / f"spool{number}")
        assert_same_samples(EuroSat(), root, (EuroSat(), eurosat_tree[0]), 40)


@contextlib.contextmanager
def read_by_another(file, spool, name="eurosat"):
    """Another process has mounted archives of a data set, and releases them at the end."""
    program = "import sys; from pathlib import Path; from tfrs import archive, archive_mount, registry\n"
    program += "root = archive_mount.mount(registry.dataset(sys.argv[1])(), *map(Path, sys.argv[2:]))\n"
    program += "print(root, flush=True); input(); archive_mount.release(root)"
    command = [sys.executable, "-c", program, name, str(file), str(spool)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while process.stdout.readline().strip() != str(spool / archive.INDEX):  # after a line on what is unpacked
            assert process.poll() is None
        yield process
        process.communicate("\n")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_index_in_use_is_not_made_one_of_other_archives(eurosat_tree, tmp_path, suffix):
    (paths, spool), files = (sorted(eurosat_tree[0].rglob("*.tif")), tmp_path / "spool"), []
    for name, step in (("a", 1), ("b", -1)):  # the same names, other pixels
        files.append(tmp_path / f"{name}{suffix}")
        names = [str(path.relative_to(eurosat_tree[0])) for path in paths]
        pack(files[-1], dict(zip(names, paths[::step], strict=True)))
    with read_by_another(files[0], spool):
        before = {path: path.read_bytes() for path in spool.iterdir()}
        with pytest.raises(UserError, match=rf"in use by another build, which reads {files[0]}; .*--spool"):
            archive_mount.mount(EuroSat(), files[1], spool)
        assert {path: path.read_bytes() for path in spool.iterdir()} == before
    assert archive.read_bytes(archive_mount.mount(EuroSat(), files[1], spool) / names[0]) == paths[-1].read_bytes()


def test_an_index_in_use_gets_no_more_archives(sen12ms_tree, tmp_path):
    folder, spool = sen12ms_archives(sen12ms_tree[0], tmp_path / "in", ".tar"), tmp_path / "spool"
    moved = [path.rename(tmp_path / path.name) for path in sorted(folder.iterdir())[3:]]
    with read_by_another(folder, spool, "sen12ms"):
        for path in moved:
            path.rename(folder / path.name)
        with pytest.raises(UserError, match=r"in use by another build, which reads .*_lc\.tar, .*_s1\.tar, .*_s2\.tar; wait"):
            archive_mount.mount(Sen12MS(), folder, spool)
    assert_same_samples(Sen12MS(), archive_mount.mount(Sen12MS(), folder, spool), (Sen12MS(), sen12ms_tree[0]), 7)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_index_is_of_one_data_set(eurosat_tree, eurosat_rgb_tree, tmp_path, suffix):
    trees = {EuroSat(): eurosat_tree[0], registry.dataset("eurosat_rgb")(): eurosat_rgb_tree}
    file, spool = tmp_path / f"both{suffix}", tmp_path / "spool"
    pack(file, {str(path.relative_to(tree)): path for tree in trees.values() for path in tree.rglob("*.*")})
    with pytest.raises(UserError, match="no sen12ms patch found"):
        archive_mount.mount(Sen12MS(), file, spool)
    for dataset, tree in trees.items():
        count = sum(len(dataset.index(tree, split)) for split in dataset.splits)
        assert count
        assert_same_samples(dataset, archive_mount.mount(dataset, file, spool), (dataset, tree), count)


@pytest.mark.parametrize("killed", [False, True])
def test_what_is_unpacked_stays_until_the_last_has_read_it(eurosat_tree, tmp_path, killed):
    file, spool = tmp_path / "EuroSAT_MS.tar.gz", tmp_path / "spool"
    pack(file, {str(path.relative_to(eurosat_tree[0])): path for path in eurosat_tree[0].rglob("*.tif")})
    root = archive_mount.mount(EuroSat(), file, spool)
    with read_by_another(file, spool) as process:
        archive_mount.release(root)
        assert set(os.listdir(spool)) == KEPT | {"EuroSAT_MS.tar.gz.spool.tar"}
        if killed:
            process.kill()
    if killed:
        archive_mount.release(archive_mount.mount(EuroSat(), file, spool))
    assert set(os.listdir(spool)) == KEPT


def test_unpacked_data_are_preferred_to_archives_beside_them(sen12ms_tree, tmp_path):
    root = shutil.copytree(sen12ms_tree[0], tmp_path / "in")
    pack(root / "ROIs1158_spring_s1.tar.gz", {})
    assert archive_mount.mount(Sen12MS(), root, tmp_path / "spool") == root
    assert not (tmp_path / "spool").exists()


def test_names_of_folders_and_files(tmp_path):
    members = ["a/s2_1/x.tif", "a/s2_1-old/x.tif", "a/s2_10/y.tif", "a/s2_1.txt", "a0/z", "b"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name in members:
            out.writestr(name, name * 9)
    root = tmp_path / "a.zip"
    with zipfile.ZipFile(root) as zipped:
        zipped.extractall(tmp_path / "tree")
    for folder in ("", "a", "a/s2_1", "a/s2_10", "a0", "a/s", "c"):
        there, here = tmp_path / "tree" / folder, root / folder
        assert archive.is_dir(here) == archive.is_dir(there)
        assert sorted(archive.names(here)) == sorted(archive.names(there))
    assert sorted(archive.walk(root)) == sorted(archive.walk(tmp_path / "tree")) == sorted(members)
    assert [archive.read_bytes(root / name) for name in members] == [(name * 9).encode() for name in members]
    for path in (root / "a/no", tmp_path / "no/x"):
        with pytest.raises(FileNotFoundError):
            archive.read_bytes(path)


def test_a_flipped_bit_in_a_zip_is_a_bad_patch(eurosat_tree, tmp_path):
    content = (eurosat_tree[0] / "EuroSAT_MS" / "River" / "River_1.tif").read_bytes()
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        root = tmp_path / f"{kind}.zip"
        with zipfile.ZipFile(root, "w", kind) as out:
            out.writestr("River/River_1.tif", content)
        damaged = bytearray(root.read_bytes())
        damaged[5000] ^= 1
        root.write_bytes(damaged)
        with pytest.raises(BadPatch, match=r"River_1\.tif: cannot be read \(.*damaged"):
            EuroSat().read(root, "River_1")


def build(root, output, *flags):
    return run("--dataset=sen12ms", f"--input={root}", f"--output={output}", *flags)


def run(*arguments):
    command = [sys.executable, "-m", "tfrecords_builder", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_command_gives_the_records_of_the_folder(sen12ms_tree, tmp_path):
    tree = sen12ms_tree[0]
    folder, output = sen12ms_archives(tree, tmp_path / "in", ".tar.gz"), tmp_path / "records"
    done = build(folder, output, "--workers=2", "--shard_mb=6")
    assert done.returncode == 0, done.stderr
    assert "unpacking 9 archives into" in done.stdout
    spool = output / "sen12ms" / ".archives"
    assert set(os.listdir(spool)) == KEPT

    assert build(tree, tmp_path / "expected", "--workers=1", "--shard_mb=6").returncode == 0
    shards = sorted((tmp_path / "expected").rglob("*.tfrecord-*"))
    assert len(shards) == 4
    for shard in shards:
        assert (output / shard.relative_to(tmp_path / "expected")).read_bytes() == shard.read_bytes()

    again = build(folder, output, "--shard_mb=6")
    assert "already built: nothing to do" in again.stdout
    assert "unpacking" not in again.stdout
    shutil.rmtree(spool)
    spool = tmp_path / "elsewhere"
    anew = build(folder, output, "--shard_mb=6", "--overwrite", f"--spool={spool}")
    assert "unpacking 9 archives" in anew.stdout
    assert (anew.returncode, set(os.listdir(spool))) == (0, KEPT)
    assert "nothing to do" in build(folder, output, "--shard_mb=6", f"--spool={tmp_path / 'third'}").stdout

    (shard, *_) = output.rglob("*.tfrecord-*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + b"?" + whole[1001:])
    repaired = run("verify", str(output), "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert f"unpacking 9 archives into {spool}" in repaired.stdout
    assert (shard.read_bytes(), set(os.listdir(spool))) == (whole, KEPT)
    assert not (output / "sen12ms" / ".archives").exists()


def test_tasks_share_what_is_unpacked(sen12ms_tree, tmp_path):
    folder, output = sen12ms_archives(sen12ms_tree[0], tmp_path / "in", ".tar.gz"), tmp_path / "records"
    first, second = (build(folder, output, "--shard_mb=6", f"--task_index={i}", "--task_count=2") for i in range(2))
    assert ("unpacking" in first.stdout, "unpacking" in second.stdout) == (True, False)
    finished = build(folder, output, "--shard_mb=6", "--task_count=2")
    assert finished.returncode == 0, finished.stderr
    assert set(os.listdir(output / "sen12ms" / ".archives")) == KEPT


def test_a_truncated_archive_is_named_and_the_others_are_not_unpacked_again(sen12ms_tree, tmp_path):
    folder, spool = sen12ms_archives(sen12ms_tree[0], tmp_path / "in", ".tar.gz"), tmp_path / "spool"
    last = max(folder.iterdir())
    whole = last.read_bytes()
    for length in (len(whole) - 4, len(whole) // 2, 5):
        last.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{re.escape(str(last))}: cannot be read as an archive .*Download it again"):
            archive_mount.mount(Sen12MS(), folder, spool)
        assert len(list(spool.glob("*.spool.tar"))) in (0, 8)  # at 5 bytes, nothing was begun
    before = {path: path.stat().st_mtime_ns for path in spool.glob("*.spool.tar")}
    last.write_bytes(whole)
    root = archive_mount.mount(Sen12MS(), folder, spool)
    assert_same_samples(Sen12MS(), root, (Sen12MS(), sen12ms_tree[0]), 7)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_archives_make_another_index(sen12ms_tree, tmp_path):
    folder = sen12ms_archives(sen12ms_tree[0], tmp_path / "in", ".tar.gz")
    archive_mount.mount(Sen12MS(), folder, tmp_path / "spool")
    for path in folder.glob("ROIs1158*"):
        path.unlink()
    root = archive_mount.mount(Sen12MS(), folder, tmp_path / "spool")
    assert not archive.is_dir(root / "ROIs1158_spring")
    assert archive.is_dir(root / "ROIs2017_winter")


def test_missing_space_is_said_before_anything_is_unpacked(sen12ms_tree, tmp_path, monkeypatch):
    folder = sen12ms_archives(sen12ms_tree[0], tmp_path / "in", ".tar.gz")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(10_000_000))
    with pytest.raises(UserError, match=r"0\.0 GB are free, but .*ROIs1158_spring_lc\.tar\.gz.* takes about 0\.0 GB .*--spool"):
        archive_mount.mount(Sen12MS(), folder, tmp_path / "spool")
    assert not list((tmp_path / "spool").glob("*.tar*"))


def test_no_archive_at_all(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"a\.tar\.gz: cannot be read as an archive"):
        archive_mount.mount(EuroSat(), tmp_path / "a.tar.gz", tmp_path / "spool")
    buffer = io.BytesIO()
    with gzip.open(buffer, "w") as out:
        out.write(b"no tar" * 1000)
    (tmp_path / "a.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"a\.tar\.gz: cannot be read as an archive"):
        archive_mount.mount(EuroSat(), tmp_path / "a.tar.gz", tmp_path / "spool")
    root = tmp_path / "sen12ms"
    root.mkdir()
    assert archive_mount.mount(Sen12MS(), root, tmp_path / "spool") == root
