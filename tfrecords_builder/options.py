"""Flags that only some data sets understand; each is the field of that name of their `Dataset`."""

from dataclasses import fields

from absl import flags

from tfrs.errors import UserError

_BIGEARTHNET = "bigearthnet, bigearthnet_v2: "
flags.DEFINE_string(
    "resampling",
    None,
    _BIGEARTHNET + "how bands at 20 and 60 m become 120x120: nearest, bilinear (the data set's own choice) or cubic",
)
flags.DEFINE_bool("native_resolution", None, _BIGEARTHNET + "keep bands at their size, one raster per resolution")
flags.DEFINE_bool("s1", None, _BIGEARTHNET + "pair with Sentinel-1; --nos1 takes Sentinel-2 alone")
flags.DEFINE_bool("keep_unrecommended", None, _BIGEARTHNET + "keep patches with snow, clouds, shadows or no 19-class label")
flags.DEFINE_string("split_lists", None, "bigearthnet: place of train.csv, val.csv, test.csv (default: beside the data)")
flags.DEFINE_bool("reference_map", None, "bigearthnet_v2: store the reference map; --noreference_map leaves it out")

OPTIONS = ("resampling", "native_resolution", "s1", "keep_unrecommended", "split_lists", "reference_map")


def create(kind: type, **settings):
    """The data set with `settings` and the options that were given as flags.

    Raises:
        UserError: The data set has no such option.
    """
    given = {name: flags.FLAGS[name].value for name in OPTIONS if flags.FLAGS[name].value is not None}
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            has = ", ".join(f"--{option}" for option in OPTIONS if option in known) or "none"
            raise UserError(f"--{name} is no option of data set {kind.name}; its options: {has}")
    return kind(**settings, **given)
