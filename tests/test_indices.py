import subprocess
import sys

import numpy as np
import pytest

from tfrs.errors import UserError
from tfrs.indices import INDICES, Entropy, needed, parse_offsets

# Reflectances of one pixel, and every index of it by hand.
PIXEL = {"B02": 0.05, "B03": 0.08, "B04": 0.1, "B08": 0.4, "B11": 0.2}
BY_HAND = {
    "NDVI": 0.3 / 0.5,
    "NDBI": -0.2 / 0.6,
    "NDWI": -0.32 / 0.48,
    "MNDWI": -0.12 / 0.28,
    "SAVI": 1.5 * 0.3 / 1.0,
    "EVI": 2.5 * 0.3 / 1.625,
    "BSI": -0.15 / 0.75,
    "eNDVI": 0.3 / 0.5,  # what its texture is of
}


@pytest.mark.parametrize("name", INDICES)
def test_formulas(name):
    index = INDICES[name]
    assert index.formula(*(PIXEL[band] for band in index.bands)) == pytest.approx(BY_HAND[name])
    images = [np.full((2, 3), PIXEL[band]) for band in index.bands]
    np.testing.assert_allclose(index.formula(*images), np.full((2, 3), BY_HAND[name]))


def test_entropy_alone_is_a_texture():
    assert [name for name, index in INDICES.items() if index.texture] == ["eNDVI"]


@pytest.mark.parametrize(
    ("channels", "bands"),
    [
        ("B08 B04 B03 NDVI NDBI eNDVI", "B08 B04 B03 B11"),
        ("NDVI B03 B04", "B03 B04 B08"),
        ("eNDVI", "B08 B04"),
        ("VV VH", "VV VH"),
        ("", ""),
    ],
)
def test_bands_that_channels_are_made_of(channels, bands):
    assert needed(channels.split()) == tuple(bands.split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 1}, r"--entropy_levels=1 is out of range; give 2 to 16"),
        ({"levels": 17}, r"--entropy_levels=17 is out of range"),
        ({"window": 8}, r"--entropy_window=8 must be odd, from 3 to 31"),
        ({"window": 1}, r"--entropy_window=1 must be odd"),
        ({"window": 33}, r"--entropy_window=33 must be odd"),
        ({"offsets": ()}, r"--entropy_offsets is empty"),
        ({"offsets": ((0, 1), (0, 0))}, r"--entropy_offsets: 0:0 pairs no two pixels of a window of 7x7"),
        ({"offsets": ((0, -7),)}, r"--entropy_offsets: 0:-7 pairs no two pixels"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        Entropy(**settings)


def test_offsets_as_text():
    assert parse_offsets(("0:1", "-2:13")) == ((0, 1), (-2, 13))
    for wrong in ("1", "1:2:3", "a:1", ""):
        with pytest.raises(UserError, match=rf"--entropy_offsets=0:1,{wrong}: give row:column for each, e\.g\. 0:1,1:1"):
            parse_offsets(("0:1", wrong))


def test_table_costs_no_heavy_import():
    code = "import sys, tfrs.indices; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
