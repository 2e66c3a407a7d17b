"""Flags that only some data sets understand; each is the field of that name of their `Dataset`."""

from dataclasses import fields

from absl import flags

from tfrs.errors import UserError


class _Values(flags.ArgumentParser):
    """Values separated by commas, as a tuple."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def parse(self, argument):
        return tuple(map(self.kind, argument.split(","))) if isinstance(argument, str) else argument


_BIGEARTHNET = "bigearthnet, bigearthnet_v2: "
# None: not given, the data set's own default holds.
_DEFINED = [
    flags.DEFINE_string(
        "resampling", None, _BIGEARTHNET + "how bands at 20 and 60 m become 120x120: nearest, bilinear (its default) or cubic"
    ),
    flags.DEFINE_bool("native_resolution", None, _BIGEARTHNET + "keep bands at their size, one raster per resolution"),
    flags.DEFINE_bool(
        "s1", None, _BIGEARTHNET + "pair with Sentinel-1 (default: where it is there); --nos1 takes Sentinel-2 alone"
    ),
    flags.DEFINE_bool("keep_unrecommended", None, _BIGEARTHNET + "keep patches with snow, clouds, shadows or no label"),
    flags.DEFINE_string("split_lists", None, "bigearthnet: place of train.csv, val.csv, test.csv (default: beside the data)"),
    flags.DEFINE_bool("reference_map", None, "bigearthnet_v2: store the reference map (default: where it is there)"),
    flags.DEFINE_string("recipe", None, "fusion: TOML file that says what is taken from which records (default: SatImNet's)"),
    flags.DEFINE_enum("form", None, ["single", "series"], "multisenge: a record per patch and date, or per patch"),
    flags.DEFINE_string("dates", None, "multisenge: Sentinel-2 dates, all, first, monthly or YYYY-MM-DD..YYYY-MM-DD (all)"),
    flags.DEFINE_integer("max_days", None, "multisenge: largest distance in days from Sentinel-2 to Sentinel-1 (2)", 0),
    flags.DEFINE_enum(
        "split", None, ["random", "spatial"], "multisenge: spatial leaves out neighbours of val and test (random)"
    ),
    flags.DEFINE(_Values(str), "tiles", None, "multisenge: only these tiles, e.g. 31UGQ,32ULU"),
    flags.DEFINE(
        _Values(float), "test_area", None, "multisenge: minx,miny,maxx,maxy of test, longitude and latitude or the tile's UTM"
    ),
]
OPTIONS = [flag.name for flag in _DEFINED]


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
