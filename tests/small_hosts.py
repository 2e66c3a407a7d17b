"""Several processes on this machine in the place of hosts."""

import contextlib
import socket


def free_ports(count):
    """Ports that nobody listened at just now."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("", 0))).getsockname()[1] for _ in range(count)]
