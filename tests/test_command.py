import signal
import subprocess
import sys

import pytest

from tfrs import command
from tfrs.errors import UserError

PROGRAM = '''
import sys
from absl import flags
from tfrs import command
from tfrs.errors import BadPatch, UserError

flags.DEFINE_integer("seed", 7, "seed of everything", lower_bound=0)
flags.DEFINE_enum("input", "s2_ms", ["s2_ms", "s2_rgb"], "channels")
flags.DEFINE_list("augment", ["dihedral", "noise:0.1"], "augmentations")
flags.DEFINE_list("none", [], "nothing")
flags.DEFINE_bool("overwrite", False, "replace what is there")
flags.DEFINE_string("records", None, "folder of records")


def main(arguments):
    {body}


if __name__ == "__main__":
    command.run(main, """
Do a thing.

  python thing.py [flags]
""")
'''


@pytest.fixture
def program(tmp_path):
    """Run a command with this body of `main` and these arguments."""

    def run(body, *arguments):
        (tmp_path / "thing.py").write_text(PROGRAM.replace("{body}", body))
        command = [sys.executable, "thing.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


def outcome(result):
    return result.returncode, result.stdout, result.stderr


def test_done(program):
    body = "print(flags.FLAGS.seed, flags.FLAGS.overwrite, arguments)"
    assert outcome(program(body, "--seed=3", "--overwrite", "verify", "x")) == (0, "3 True ['verify', 'x']\n", "")
    assert outcome(program(body)) == (0, "7 False []\n", "")


def test_flags_from_a_file(program, tmp_path):
    (tmp_path / "run.flags").write_text("--seed=5\n# a remark\n--input=s2_rgb\n")
    assert program("print(flags.FLAGS.seed, flags.FLAGS.input)", "--flagfile=run.flags", "--seed=6").stdout == "6 s2_rgb\n"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise UserError('data: no such file; give --input')", "error: data: no such file; give --input\n"),
        ("raise BadPatch('a.tif', 'truncated')", "error: a.tif: truncated\n"),
        ("open('no/file', 'w')", "error: no/file: No such file or directory\n"),
        ("raise OSError(28, 'as the system says')", "error: cannot write: No space left on device\n"),
        (
            "command.no_arguments(arguments)",
            "error: unexpected argument 'sen12ms'; write flags as --name=value (see thing.py --help)\n",
        ),
    ],
)
def test_user_errors_are_one_line(program, body, line):
    assert outcome(program(body, "sen12ms")) == (1, "", line)


@pytest.mark.parametrize(
    ("body", "error"), [("[][0]", "IndexError"), ("raise OSError('of a library')", "OSError: of a library")]
)
def test_errors_of_the_program_keep_their_traceback(program, body, error):
    result = program(body)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert error in result.stderr


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--sede=3", ["sede", "seed"]),
        ("--seed=three", ["seed", "three"]),
        ("--seed=-1", ["seed", "-1"]),
        ("--input=s2", ["input", "s2_ms|s2_rgb"]),
        ("--seed", ["seed"]),
        ("--flagfile=no.flags", ["no.flags"]),
        ("-x", ["x"]),
    ],
)
def test_wrong_flags(program, argument, words):
    result = program("print('started')", argument)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("(see thing.py --help)")
    assert all(word in line for word in words)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(program, flag):
    result = program("print('started')", flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "Do a thing.",
        "",
        "  python thing.py [flags]",
        "",
        "Flags:",
        "  --seed: seed of everything (default: 7)",
        "  --input: <s2_ms|s2_rgb>: channels (default: s2_ms)",
        "  --augment: augmentations (default: dihedral,noise:0.1)",
        "  --none: nothing",
        "  --[no]overwrite: replace what is there",
        "  --records: folder of records",
        "  --flagfile: read flags from this file, one a line",
    ]


def test_interruption(program, tmp_path):
    program("pass")
    # A signal that comes just before the system call of a sleep is seen after it: many short ones.
    body = "import time; print('ready', flush=True); [time.sleep(0.1) for _ in range(600)]"
    (tmp_path / "thing.py").write_text(PROGRAM.replace("{body}", body))
    command = [sys.executable, "thing.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "error: interrupted; run the same command again to continue\n")


def test_termination(program):
    """Of a training that has saved its state."""
    body = "from tfrs.termination import Terminated; raise Terminated('SIGTERM: saved')"
    assert outcome(program(body)) == (143, "", "error: SIGTERM: saved\n")


def test_tensorflow_starts_without_chatter(program):
    body = "command.import_tensorflow(); import tensorflow as tf; print(int(tf.constant(3) + 4))"
    assert outcome(program(body)) == (0, "7\n", "")


def test_lines_of_others_are_passed_on(program, tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os, types\n"
        "os.write(2, b'I0000 00:00:1.2 port.cc:153] oneDNN custom operations are on.\\n')\n"
        "os.write(2, b'a warning of somebody else\\n')\n"
        "config = types.SimpleNamespace(list_physical_devices=list)\n"
        "get_logger = lambda: types.SimpleNamespace(setLevel=print)\n"
    )
    result = program("command.import_tensorflow(); print('still there', file=sys.stderr)")
    assert result.stderr == "a warning of somebody else\nstill there\n"


def test_pairs_of_a_flag():
    assert command.pairs("aux", ["gsw=a.tif", "esm=b=c.tif"], "name=path") == {"gsw": "a.tif", "esm": "b=c.tif"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["gsw"], "--aux has 'gsw'; give name=path"),
        (["=a.tif"], "--aux has '=a.tif'; give name=path"),
        (["gsw=a.tif", "gsw=b.tif"], "--aux names gsw twice"),
    ],
)
def test_pairs_that_are_none(values, message):
    with pytest.raises(UserError, match=message):
        command.pairs("aux", values, "name=path")
