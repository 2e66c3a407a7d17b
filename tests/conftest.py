import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tfrs import geotiff
from tfrs.geotiff import Raster

# The same examples in every run, and no clock: a loaded machine must not fail a test.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# Where tests run side by side, a worker has one core, and threads of TensorFlow beyond it only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# A shell without job control starts background jobs with SIGINT ignored, and the commands that tests interrupt inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and papers."""
    folder = Path(os.environ.get("TFRS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data: {folder / 'data'} is missing; TFRS_SHARED may name another folder")
    return folder


def _triplet(root, season, scene, patch, seed):
    """A SEN12MS triplet of random pixels: the source arrays by part, and the files they were written to."""
    rng = np.random.default_rng(seed)
    arrays = {
        "s2": rng.integers(1, 10000, (13, 256, 256), dtype=np.uint16),
        "s1": rng.normal(-15, 5, (2, 256, 256)).astype(np.float32),
        "lc": np.stack([np.kron(rng.integers(1, 18, (8, 8)), np.ones((32, 32), int))] * 4).astype(np.uint16),
    }
    files = {}
    for part, pixels in arrays.items():
        files[part] = root / season / f"{part}_{scene}" / f"{season}_{part}_{scene}_p{patch}.tif"
        files[part].parent.mkdir(parents=True, exist_ok=True)
        # No multiple of a power of two: an origin that only float64 holds.
        geotiff.write(files[part], Raster(pixels, "EPSG:32633", (10.0, 0.0, 399960.1 + patch, 0.0, -10.0, 5300040.3)))
    return arrays, files


@pytest.fixture(scope="session")
def triplet():
    """Function (root, season, scene, patch, seed) that writes one SEN12MS triplet of random pixels."""
    return _triplet


@pytest.fixture(scope="session")
def sen12ms_tree(tmp_path_factory):
    """Four train, one val and one test triplet, and the source arrays by key."""
    root, sources = tmp_path_factory.mktemp("sen12ms"), {}
    places = [("ROIs1158_spring", 1, n) for n in (9, 10, 30)] + [
        ("ROIs2017_winter", 8, 1),
        ("ROIs1158_spring", 44, 5),
        ("ROIs1868_summer", 146, 3),
        ("ROIs1158_spring", 146, 3),
    ]
    for seed, (season, scene, patch) in enumerate(places):
        sources[f"{season}_s2_{scene}_p{patch}"], _ = _triplet(root, season, scene, patch, seed)
    return root, sources


@pytest.fixture(scope="session")
def eurosat_tree(tmp_path_factory):
    """Ten random patches of each of four classes, and the source arrays by key."""
    root, rng, sources = tmp_path_factory.mktemp("eurosat"), np.random.default_rng(0), {}
    for name in ("AnnualCrop", "Highway", "River", "SeaLake"):
        folder = root / "EuroSAT_MS" / name
        folder.mkdir(parents=True)
        for number in range(1, 11):
            pixels = rng.integers(1, 10000, (13, 64, 64), dtype=np.uint16)
            size = rng.uniform(9.97, 10.006)
            raster = Raster(pixels, "EPSG:32635", (size, 0.0, rng.uniform(3e5, 7e5), 0.0, -size, rng.uniform(4e6, 6e6)))
            geotiff.write(folder / f"{name}_{number}.tif", raster)
            sources[f"{name}_{number}"] = raster
    return root, sources


@pytest.fixture(scope="session")
def eurosat_rgb_tree(tmp_path_factory):
    """The JPEG files of ten patches of each of two classes."""
    root, rng = tmp_path_factory.mktemp("eurosat_rgb"), np.random.default_rng(0)
    for name in ("Forest", "Pasture"):
        folder = root / "2750" / name
        folder.mkdir(parents=True)
        for number in range(1, 11):
            coarse = rng.integers(0, 255, (3, 8, 8), dtype=np.uint8)
            geotiff.write(folder / f"{name}_{number}.jpg", Raster(np.kron(coarse, np.ones((8, 8), np.uint8))), driver="JPEG")
    return root
