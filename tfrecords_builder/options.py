"""Flags that only some data sets understand; each sets the data set's field of the same name."""

from absl import flags

from tfrs.errors import UserError

FLAGS = flags.FLAGS


class _Values(flags.ArgumentParser):
    """Values separated by commas, as a tuple."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def parse(self, argument):
        return tuple(map(self.kind, argument.split(","))) if isinstance(argument, str) else argument


# None: not given, the data set's own default holds.
_DEFINED = [
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
NAMES = [flag.name for flag in _DEFINED]


def given(kind: type) -> dict:
    """The options that were given, for the data set class `kind`.

    Raises:
        UserError: One is of no use to this data set.
    """
    values = {name: FLAGS[name].value for name in NAMES if FLAGS[name].value is not None}
    for name in values:
        if name not in kind.__dataclass_fields__:
            known = [option for option in NAMES if option in kind.__dataclass_fields__]
            fit = f"it has {', '.join(f'--{option}' for option in known)}" if known else "it has no options"
            raise UserError(f"--{name} is no option of data set {kind.name}; {fit}")
    return values
