import numpy as np
import pytest

from tfrs import geotiff
from tfrs.datasets.multisenge import FILE_BANDS
from tfrs.errors import UserError
from tfrs.synthetic_multisenge import multisenge


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    folders = {}
    for n, seed in ((8, 0), (5, 0), (5, 1)):
        folders[n, seed] = tmp_path_factory.mktemp(f"n{n}seed{seed}")
        multisenge(folders[n, seed], n, seed)
    return folders


def test_a_patch_is_the_same_however_many_are_written(patches):
    many, few = files(patches[8, 0]), files(patches[5, 0])
    assert few.items() <= many.items()
    assert few.keys() != files(patches[5, 1]).keys(), "dates follow the seed"


def test_classes_differ_in_what_the_sensors_see(patches):
    """Water is dark in the near infrared, forest bright: the map and the images show one landscape."""
    means = {}
    for path in (patches[8, 0] / "ground_reference").iterdir():
        tile, _, x, y = path.stem.split("_")
        reference = geotiff.read(path).data[0]
        image = geotiff.read(next((patches[8, 0] / "s2").glob(f"{tile}_*_S2_{x}_{y}.tif"))).data[FILE_BANDS.index("B08")]
        for number in np.unique(reference):
            means.setdefault(int(number), []).append(image[reference == number].mean())
    assert len(means) > 6
    assert max(means[14]) < min(means[11])


def test_both_pixel_types_of_the_real_files_occur(patches):
    assert {geotiff.read(path).data.dtype.name for path in (patches[8, 0] / "s2").iterdir()} == {"uint16", "int16"}


def test_places_are_limited(tmp_path):
    with pytest.raises(UserError, match="--synthesize=2000: MultiSenGE is simulated for at most 1444 patches"):
        multisenge(tmp_path, 2000, 0)
