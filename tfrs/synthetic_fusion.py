"""Simulated sources of a fusion: records of EuroSAT and BigEarthNet, built from simulated patches."""

from pathlib import Path

from tfrs import registry
from tfrs.datasets.fusion import Fusion, candidates
from tfrs.records import Records

MOST = 500  # of BigEarthNet: the smallest count of a take, so that all patches that fit are taken


def write(root: Path, n: int, seed: int) -> None:
    """Write records of simulated patches below `root`, of which the default recipe takes `n`."""
    rules = Fusion().rules
    bigearthnet = _build("bigearthnet", root, min(n // 2, MOST), seed)
    fitting: set[str] = set()
    for take in rules.take:
        if take.records == bigearthnet.name:
            fitting |= candidates(rules, take, bigearthnet, "").keys()
    _build("eurosat", root, n - len(fitting), seed)


def _build(name: str, root: Path, count: int, seed: int) -> Records:
    from tfrecords_builder import plan, writer  # which read data sets themselves

    source = registry.dataset(name)(seed=seed)
    folder = root / "sources" / name
    source.synthesize(folder, count, seed)
    source = source.at(folder)
    return writer.write(source, folder, root, plan.plan(source, folder, seed=seed))
