"""The processes that train one model together: who they are, by TF_CONFIG or SLURM, and waiting until all are there."""

import contextlib
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tfrs.errors import UserError

PATIENCE, REMINDER = 600, 30  # seconds to wait for the others, and between lines about it
GO = "go"
FIRST_PORT, PORTS = 10_000, 20_000  # below those that Linux gives to outgoing connections


@dataclass(frozen=True)
class Cluster:
    """Addresses `host:port` of all processes, and the place of this one among them."""

    addresses: tuple[str, ...]
    index: int


def find(environment: Mapping[str, str]) -> Cluster | None:
    """What TF_CONFIG says, else the step of SLURM (srun) that this process is a task of; None where there is neither.

    Raises:
        UserError: It cannot be used.
    """
    if "TF_CONFIG" in environment:
        return _of_tf_config(environment["TF_CONFIG"])
    return _of_slurm(environment) if "SLURM_STEP_NODELIST" in environment else None


def _of_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        addresses = (*jobs.get("chief", ()), *jobs.get("worker", ()))
        index = int(task["index"]) + (len(jobs.get("chief", ())) if task["type"] == "worker" else 0)
        fits = set(jobs) <= {"chief", "worker"} and 0 <= index < len(addresses) == len(set(addresses)) and task["type"] in jobs
        fits = fits and all(re.fullmatch(r".+:\d+", address) for address in addresses)
    except (ValueError, LookupError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise UserError(
            f"TF_CONFIG={text} cannot be used; on the first of two hosts give "
            '{"cluster": {"worker": ["HOST1:PORT", "HOST2:PORT"]}, "task": {"type": "worker", "index": 0}}'
        )
    return Cluster(addresses, index)


def _of_slurm(environment: Mapping[str, str]) -> Cluster:
    """Tasks are counted node by node, so that it does not matter how `srun --distribution` numbers them.

    TensorFlow's own resolver (2.21) fails without GPUs (its issue 56894), and sorts hosts as text: node10 comes before node9.
    """
    try:
        nodes = expand(environment["SLURM_STEP_NODELIST"])
        tasks = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment["SLURM_STEP_TASKS_PER_NODE"])
        tasks = [int(count) for count, times in tasks for _ in range(int(times or 1))]
        port = FIRST_PORT + int(environment["SLURM_JOB_ID"]) % PORTS  # jobs that share a node need other ones
        addresses = tuple(f"{node}:{port + task}" for node, count in zip(nodes, tasks, strict=True) for task in range(count))
        return Cluster(addresses, sum(tasks[: int(environment["SLURM_NODEID"])]) + int(environment["SLURM_LOCALID"]))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"SLURM's variables cannot be used ({error!r}); start with srun, or give --strategy=mirrored to train in this "
            "process alone"
        ) from error


def expand(nodes: str) -> list[str]:
    """Names of SLURM's short form, in order: `n[08-10],m1` is n08, n09, n10, m1."""
    found = []
    for name in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        parts = re.split(r"\[([^\]]*)\]", name)  # what is in brackets has odd places
        choices = [_numbers(part) if place % 2 else [part] for place, part in enumerate(parts)]
        found += map("".join, itertools.product(*choices))
    return found


def _numbers(ranges: str) -> list[str]:
    bounds = [(part.split("-")[0], part.split("-")[-1]) for part in ranges.split(",")]
    return [f"{number:0{len(low)}}" for low, high in bounds for number in range(int(low), int(high) + 1)]


def meet(cluster: Cluster, devices: str, patience: float = PATIENCE) -> None:
    """Return once every process of the cluster has called this, each at its address, which is free again then.

    TensorFlow's own wait for processes that are missing says nothing for an hour, and does not hear Ctrl-C (2.21).

    Args:
        devices: What this process has, which must be the same for all.

    Raises:
        UserError: Some did not come in time, or have other devices; the port of this one is taken.
    """
    end = time.monotonic() + patience
    host, port = cluster.addresses[cluster.index].rsplit(":", 1)
    dual = socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server(
            ("", int(port)), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=128
        )
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be used ({os.strerror(error.errno)}); give this process another"
        ) from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening)
        if cluster.index:
            _report(cluster, devices, end)
        else:
            _gather(cluster, devices, listening, end, stack)


def _gather(cluster: Cluster, devices: str, listening: socket.socket, end: float, stack: contextlib.ExitStack) -> None:
    """As the first process: wait for a connection from each other one, and then answer all."""
    listening.settimeout(1)
    came: dict[int, tuple[str, socket.socket]] = {}

    def missing():
        return [address for number, address in enumerate(cluster.addresses) if number and number not in came]

    for _ in _waiting(end, lambda: f"{len(missing())} of {len(cluster.addresses)} processes: {', '.join(missing())}"):
        if not missing():
            break
        with contextlib.suppress(OSError, ValueError):  # nobody came yet, or somebody else
            connection = stack.enter_context(listening.accept()[0])
            connection.settimeout(1)
            number, said = connection.recv(64).decode().split(" ", 1)
            came[int(number)] = said, connection
    other = [f"{cluster.addresses[number]} has {said}" for number, (said, _) in sorted(came.items()) if said != devices]
    answer = f"{', '.join(other)}, but {cluster.addresses[0]} {devices}; give each as many" if other else GO
    for _, connection in came.values():
        connection.sendall(answer.encode())
    if other:
        raise UserError(answer)


def _report(cluster: Cluster, devices: str, end: float) -> None:
    """As another process: tell the first one, and wait for its answer."""
    host, port = cluster.addresses[0].rsplit(":", 1)
    for _ in _waiting(end, lambda: f"the first process, {host}:{port}, or others that it waits for"):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1) as connection:
            connection.settimeout(max(1, end - time.monotonic()))
            connection.sendall(f"{cluster.index} {devices}".encode())
            if (answer := connection.recv(4096).decode()) == GO:
                return
            if answer:  # none: the first one has ended while it waited
                raise UserError(answer)
        time.sleep(0.2)


def _waiting(end: float, who: Callable[[], str]) -> Iterator[None]:
    """Come back again and again until the time is over, saying now and then who is waited for."""
    told = time.monotonic()
    while (now := time.monotonic()) < end:
        if now - told > REMINDER:
            print(f"waiting for {who()}", flush=True)
            told = now
        yield
    raise UserError(f"gave up waiting for {who()}; start the same command on every host, and let them reach each other's ports")
