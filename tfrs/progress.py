"""Progress with rate and remaining time: a bar on a terminal, a plain line now and then in a log."""

import sys

LOG_INTERVAL = 30  # seconds between lines of a log


class _Lines:
    """A stream that turns the redrawn bar into lines."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(**settings):
    """A `tqdm` bar with these settings, fit for where stderr goes."""
    from tqdm import tqdm  # workers of a build show no progress, and begin the sooner

    if sys.stderr.isatty():
        return tqdm(**settings)
    form = "{desc}: {n_fmt}/{total_fmt} {unit}, {rate_fmt}, {remaining} left"
    return tqdm(**{**settings, "leave": False}, file=_Lines(), mininterval=LOG_INTERVAL, delay=LOG_INTERVAL, bar_format=form)
