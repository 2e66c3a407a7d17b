"""Sensors, their bands and the named inputs; the only place that turns a band name into a position."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tfrs.errors import UserError, unknown
from tfrs.indices import INDICES, needed

# ESA order, as in SEN12MS files.
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
# Ground sampling in metres.
S2_SAMPLING = dict(zip(S2_BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20), strict=True))
S1_BANDS = ("VV", "VH")
DECIBEL = "decibel"
# The ten bands at 10 and 20 m that see the surface.
S2_SURFACE = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


@dataclass(frozen=True)
class Sensor:
    """One raster of a record: its bands in the order of the file, pixel type, unit and nodata value.

    Attributes:
        name: Field name in the record, e.g. `s2`.
        bands: Band names in stored order.
        dtype: NumPy name of the pixel type.
        unit: What a value means, for people and for `card.json`.
        nodata: Value that marks a pixel without data; None where the sensor has none. NaN always counts.
    """

    name: str
    bands: tuple[str, ...]
    dtype: str
    unit: str
    nodata: float | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """What a model sees of this sensor, in order."""
        return self.bands

    def index(self, bands: Iterable[str]) -> tuple[int, ...]:
        """Positions of `bands` in the stored order."""
        position = {band: i for i, band in enumerate(self.bands)}
        missing = [band for band in bands if band not in position]
        if missing:
            raise UserError(f"sensor {self.name!r} has no band {', '.join(missing)}; it has {', '.join(self.bands)}")
        return tuple(position[band] for band in bands)

    def display(self) -> tuple[str, ...]:
        """Bands for a picture: true colour where it can be had, else the first three, or the first alone."""
        true_color = ("B04", "B03", "B02")
        if set(true_color) <= set(self.bands):
            return true_color
        return self.bands[:3] if len(self.bands) >= 3 else self.bands[:1]


@dataclass(frozen=True)
class SensorWithIndices(Sensor):
    """A sensor of which a model sees indices too: `bands` go into the model, `channels` are bands and indices in order."""

    channels: tuple[str, ...] = ()


def sentinel2(bands: tuple[str, ...] = S2_BANDS, dtype: str = "uint16") -> Sensor:
    """Sentinel-2 digital numbers; 0 is the product's NO_DATA value."""
    return Sensor("s2", bands, dtype, "digital number (reflectance x 10,000)", nodata=0)


def sentinel1() -> Sensor:
    """Sentinel-1 GRD backscatter, dual polarisation."""
    return Sensor("s1", S1_BANDS, "float32", DECIBEL)


# Input name -> sensor -> bands and indices; None stands for all bands the records have, in ESA order.
INPUTS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "s2_rgb": {"s2": ("B04", "B03", "B02")},
    "s2_ms": {"s2": S2_SURFACE},
    "s1s2": {"s2": S2_SURFACE, "s1": S1_BANDS},
    "s1": {"s1": S1_BANDS},
    "s2_10m": {"s2": ("B02", "B03", "B04", "B08")},
    "s2_all": {"s2": None},
    "irrg": {"s2": ("B08", "B04", "B03")},
    "irrg_index": {"s2": ("B08", "B04", "B03", "NDVI", "NDBI", "eNDVI")},
    "rgb": {"rgb": ("B04", "B03", "B02")},
}


def resolve(spec: str, sensors: Mapping[str, Sensor]) -> dict[str, tuple[str, ...]]:
    """The channels of each sensor, bands and indices, that an input means for records with `sensors`.

    Args:
        spec: A name of `INPUTS`, or an explicit list in the order wanted: `B02,B03,NDVI,VV`, or with the
            sensor where a band name stands in two, `s2:B04,NDVI+s1:VV`.
        sensors: The sensors of the records by name.

    Raises:
        UserError: The name is unknown, or the records lack a sensor, a band, or a band that an index needs.
    """
    chosen = _by_resolution(INPUTS[spec], sensors) if spec in INPUTS else _explicit(spec, sensors)
    for name, channels in chosen.items():
        if name not in sensors:
            fit = [key for key, needs in INPUTS.items() if set(needs) <= set(sensors)]
            raise UserError(
                f"input {spec!r} needs sensor {name!r}, but the records have {', '.join(sensors)}; "
                f"inputs that fit: {', '.join(fit)}"
            )
        _check_indices(channels or (), {name: sensors[name]})
        sensors[name].index(needed(channels or ()))
    return {name: esa_order(sensors[name].bands) if channels is None else channels for name, channels in chosen.items()}


def _by_resolution(chosen: Mapping[str, tuple[str, ...] | None], sensors: Mapping[str, Sensor]) -> dict:
    """An input's sensors, each that the records hold in parts (`s2_10m`, `s2_20m` ...) by the parts that have its bands."""
    found = {}
    for name, channels in chosen.items():
        parts = {} if name in sensors else {part: s for part, s in sensors.items() if part.startswith(f"{name}_")}
        for part, sensor in parts.items():
            wanted = sensor.bands if channels is None else tuple(c for c in channels if _has(sensor, c))
            found |= {part: wanted} if wanted else {}
        if parts:
            _check_indices(channels or (), parts)
        else:
            found[name] = channels
    return found


def _has(sensor: Sensor, channel: str) -> bool:
    """Whether a channel is a band of the sensor, or an index all of whose bands it has."""
    return set(needed([channel])) <= set(sensor.bands)


def _check_indices(channels: Iterable[str], sensors: Mapping[str, Sensor]) -> None:
    """Raise a UserError for the first index whose bands no one of `sensors` has."""
    for index in channels:
        if index not in INDICES or any(_has(sensor, index) for sensor in sensors.values()):
            continue
        holders = {band: [name for name, sensor in sensors.items() if band in sensor.bands] for band in INDICES[index].bands}
        if missing := [band for band, names in holders.items() if not names]:
            there = "; ".join(f"{name} has {', '.join(sensor.bands)}" for name, sensor in sensors.items())
            raise UserError(f"index {index} needs band {', '.join(missing)}, which the records lack: {there}")
        apart = ", ".join(f"{band} in {' and '.join(names)}" for band, names in holders.items())
        raise UserError(f"index {index} needs its bands in one raster ({apart}); build records without --native_resolution")


def select(sensors: Mapping[str, Sensor], channels: Mapping[str, tuple[str, ...]]) -> dict[str, Sensor]:
    """The sensors of an input, each with the bands that its channels are made of."""
    return {name: _narrowed(sensors[name], tuple(chosen)) for name, chosen in channels.items()}


def _narrowed(sensor: Sensor, channels: tuple[str, ...]) -> Sensor:
    sensor = replace(sensor, bands=needed(channels))
    return sensor if sensor.bands == channels else SensorWithIndices(**vars(sensor), channels=channels)


def esa_order(bands: Iterable[str]) -> tuple[str, ...]:
    """`bands` of Sentinel-2 in ESA's order, whatever order the file has."""
    return tuple(sorted(bands, key=S2_BANDS.index))


def _explicit(spec: str, sensors: Mapping[str, Sensor]) -> dict[str, tuple[str, ...]]:
    chosen: dict[str, list[str]] = {}
    for part in spec.split("+"):
        named, _, listed = part.rpartition(":")
        for band in listed.split(","):
            owners = [named] if named else [name for name, sensor in sensors.items() if _has(sensor, band)]
            if len(owners) > 1:
                raise UserError(f"input {spec!r}: {band} is a band of {' and '.join(owners)}; write {owners[0]}:{band}")
            if not owners:
                _check_indices([band], sensors)
                known = {b for sensor in sensors.values() for b in sensor.bands}
                raise unknown("input or band", band, [*INPUTS, *INDICES, *sorted(known)])
            bands = chosen.setdefault(owners[0], [])
            if band in bands:
                raise UserError(f"input {spec!r} names band {band} twice")
            bands.append(band)
    return {name: tuple(bands) for name, bands in chosen.items()}
