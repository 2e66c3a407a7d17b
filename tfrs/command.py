"""How every command starts and ends: flags first, heavy imports after, user errors as one line."""

import os
import re
import sys
import tempfile
from collections.abc import Callable

from absl import flags

from tfrs.errors import UserError
from tfrs.termination import TERMINATED, Terminated

WRONG_FLAGS, USER_ERROR, INTERRUPTED = 2, 1, 130


def run(main: Callable[[list[str]], None], usage: str) -> None:
    """Parse the flags of `sys.argv`, call `main` with what is left, and exit.

    Exit status: 0 done, 1 an error that the user can mend (one line, no traceback), 2 wrong flags, 143 ended by SIGTERM with
    nothing half-done.
    """
    try:
        arguments = flags.FLAGS(sys.argv)[1:]
    except flags.Error as error:
        sys.exit(_say(f"{error} (see {_program()} --help)", WRONG_FLAGS))
    if flags.FLAGS["help"].value:
        print(f"{usage.strip()}\n\nFlags:\n{_flag_help()}")
        sys.exit(0)
    try:
        main(arguments)
    except UserError as error:
        sys.exit(_say(str(error), USER_ERROR))
    except OSError as error:  # a full disk, missing rights, a folder in the way
        if error.errno is None:
            raise
        sys.exit(_say(f"{error.filename or 'cannot write'}: {os.strerror(error.errno)}", USER_ERROR))
    except Terminated as told:
        sys.exit(_say(str(told), TERMINATED))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; run the same command again to continue", INTERRUPTED))


def import_tensorflow() -> None:
    """Import TensorFlow and look for devices without its start-up chatter on stderr; other lines are passed on.

    TF 2.21 logs CPU features and missing CUDA libraries before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    chatter = re.compile(rb"WARNING: All log messages before absl|[IWE]0000 ")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            tf.get_logger().setLevel("ERROR")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            os.write(2, b"".join(line for line in log if not chatter.match(line)))


def no_arguments(arguments: list[str]) -> None:
    """Refuse arguments without a flag's name: they would be lost silently."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}; write flags as --name=value (see {_program()} --help)")


def pairs(flag: str, values: list[str], example: str) -> dict[str, str]:
    """The parts of a flag's `name=value` values.

    Raises:
        UserError: A value has another form, or a name stands twice.
    """
    found: dict[str, str] = {}
    for text in values:
        name, _, value = text.partition("=")
        if not name or not value:
            raise UserError(f"--{flag} has {text!r}; give {example}")
        if name in found:
            raise UserError(f"--{flag} names {name} twice")
        found[name] = value
    return found


def _say(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _program() -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else sys.argv[0]


def _flag_help() -> str:
    """Help of the flags that this package defines; absl's own are listed by name only."""
    lines = []
    for module, members in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("absl"):
            continue
        for flag in (member for member in members if member.name != "help"):
            default = "" if flag.default is False or flag.default in (None, "", []) else f" (default: {_plain(flag.default)})"
            name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
            lines.append(f"  {name}: {flag.help}{default}")
    return "\n".join([*lines, "  --flagfile: read flags from this file, one a line"])


def _plain(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


flags.DEFINE_bool("help", False, "show this help", short_name="h", allow_override=True)
