"""Errors that a user can mend: each message names the file and the fix."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot be used; commands print it as one line and exit with status 1."""


class BadPatch(UserError):
    """One patch cannot be read; the builder puts it into quarantine and goes on."""

    def __init__(self, path, reason: str):
        super().__init__(path, reason)  # both in args, so that it survives pickling between processes
        self.path, self.reason = str(path), reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in `known`, with the nearest one suggested."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}.{guess} Known: {', '.join(known)}.")
