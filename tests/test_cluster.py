"""Which processes train together, from the variables of their environment, and how they wait for each other."""

import json
import socket
import threading

import pytest
from small_hosts import free_ports
from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import expand_hostlist

from tfrs import cluster
from tfrs.cluster import Cluster
from tfrs.errors import UserError

HOSTS = ["a:1", "b:1", "c:2"]


def tf_config(jobs, kind, index):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})}


def test_tf_config():
    assert cluster.find({}) is None
    assert cluster.find(tf_config({"worker": HOSTS}, "worker", 2)) == Cluster(("a:1", "b:1", "c:2"), 2)
    chief = {"chief": HOSTS[:1], "worker": HOSTS[1:]}
    assert cluster.find(tf_config(chief, "chief", 0)) == Cluster(("a:1", "b:1", "c:2"), 0)
    assert cluster.find(tf_config(chief, "worker", "1")) == Cluster(("a:1", "b:1", "c:2"), 2)


@pytest.mark.parametrize(
    "environment",
    [
        {"TF_CONFIG": "{"},
        {"TF_CONFIG": "[]"},
        {"TF_CONFIG": "{}"},
        tf_config({"worker": HOSTS}, "worker", 3),
        tf_config({"worker": HOSTS}, "worker", -1),
        tf_config({"worker": HOSTS}, "chief", 0),
        tf_config({"worker": HOSTS, "ps": ["d:1"]}, "worker", 0),
        tf_config({"worker": ["a:1", "a:1"]}, "worker", 0),
        tf_config({"worker": ["a", "b:1"]}, "worker", 0),
        tf_config({"worker": "a:1"}, "worker", 0),
    ],
    ids=str,
)
def test_tf_config_that_cannot_be_used(environment):
    with pytest.raises(UserError, match=r'^TF_CONFIG=.* cannot be used; on the first of two hosts give \{"cluster": '):
        cluster.find(environment)


def slurm(nodes, tasks, node, local, **other):
    step = {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_JOB_ID": "4000123"}
    return {**step, "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local), "SLURM_PROCID": "0", **other}


def test_slurm_tasks_are_counted_node_by_node():
    """Three nodes with two, two and one task; node9 before node10, as SLURM names them; TF_CONFIG goes before."""
    addresses = tuple(f"node{node}:{10123 + task}" for node, task in [(9, 0), (9, 1), (10, 0), (10, 1), (11, 0)])
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    found = [cluster.find(slurm("node[9-11]", "2(x2),1", *place)) for place in places]
    assert found == [Cluster(addresses, index) for index in range(5)]
    assert cluster.find(slurm("node[9-11]", "2(x2),1", 0, 0, **tf_config({"worker": HOSTS}, "worker", 1))).index == 1


@pytest.mark.parametrize("change", [{"SLURM_STEP_TASKS_PER_NODE": "2"}, {"SLURM_NODEID": ""}, {"SLURM_JOB_ID": "x"}], ids=str)
def test_slurm_variables_that_cannot_be_used(change):
    with pytest.raises(
        UserError, match=r"^SLURM's variables cannot be used .*; start with srun, or give --strategy=mirrored to"
    ):
        cluster.find(slurm("node[9-11]", "1(x3)", 0, 0) | change)
    environment = slurm("n1", "1", 0, 0)
    del environment["SLURM_LOCALID"]
    with pytest.raises(UserError, match=r"KeyError\('SLURM_LOCALID'\)"):
        cluster.find(environment)


@pytest.mark.parametrize("nodes", ["n1", "n[1-2],m5,o[3-4,6,7-9]", "gpu-a[098-101],login", "a.b.c,n[1]"])
def test_names_of_nodes_are_those_that_tensorflow_finds(nodes):
    assert cluster.expand(nodes) == expand_hostlist(nodes)


def test_names_with_two_ranges():
    assert cluster.expand("r[1-2]n[08-09]x,m") == ["r1n08x", "r1n09x", "r2n08x", "r2n09x", "m"]


def test_processes_meet_whoever_comes_first():
    """The first one last, and somebody who is none of them."""
    addresses = tuple(f"localhost:{port}" for port in free_ports(3))
    left = []
    threads = [
        threading.Thread(target=lambda i=i: (cluster.meet(Cluster(addresses, i), "1 GPU", 20), left.append(i)))
        for i in (2, 1, 0)
    ]
    for thread in threads[:2]:
        thread.start()
    threads[0].join(0.5)
    assert not left
    threads[2].start()
    for thread in threads:
        thread.join(20)
    assert sorted(left) == [0, 1, 2]
    cluster.meet(Cluster(addresses[:1], 0), "", 1)  # alone, at once, on a port that is free again


def test_processes_with_other_devices_are_refused_on_all():
    addresses, errors = tuple(f"localhost:{port}" for port in free_ports(3)), []

    def join(index, gpus):
        with pytest.raises(UserError) as caught:
            cluster.meet(Cluster(addresses, index), f"{gpus} GPUs", 20)
        errors.append(str(caught.value))

    threads = [threading.Thread(target=join, args=of) for of in ((0, 4), (1, 3), (2, 4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == [f"{addresses[1]} has 3 GPUs, but {addresses[0]} 4 GPUs; give each as many"] * 3


def test_processes_that_do_not_come_are_named(monkeypatch, capsys):
    monkeypatch.setattr(cluster, "REMINDER", 0.2)
    first, second, third = (
        f"{host}:{port}" for host, port in zip(("localhost", "nowhere", "there"), free_ports(3), strict=True)
    )
    missing = f"waiting for 2 of 3 processes: {second}, {third}"
    with pytest.raises(UserError, match=rf"^gave up {missing}; start the same command on every host"):
        cluster.meet(Cluster((first, second, third), 0), "", 1.2)
    assert f"{missing}\n" in capsys.readouterr().out
    with pytest.raises(UserError, match=rf"gave up waiting for the first process, {first}, or others that it waits for; start"):
        cluster.meet(Cluster((first, second, third), 1), "", 0.5)


@pytest.mark.parametrize("index", [0, 1])
def test_port_that_is_taken(index):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = [f"there:{port - 1}", f"there:{port - 1}"]
        addresses[index] = f"here:{port}"
        with pytest.raises(UserError, match=rf"^port {port} of here cannot be used \(Address already in use\); give this"):
            cluster.meet(Cluster(tuple(addresses), index), "", 1)
