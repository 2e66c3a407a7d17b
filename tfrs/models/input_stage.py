"""The input stage of every model: raw values of each sensor to the channels that the model sees."""

from collections.abc import Mapping

import keras

from tfrs.errors import UserError, unknown
from tfrs.indices import INDICES, Entropy
from tfrs.models.indices import Indices
from tfrs.models.normalize import Normalize
from tfrs.sensors import Sensor
from tfrs.statistics import PUBLISHED


def input_planes(
    sensors: Mapping[str, Sensor], statistics: Mapping, normalization: str, entropy: Entropy, size: int | None = None
) -> tuple[dict[str, keras.KerasTensor], dict[str, keras.KerasTensor]]:
    """The inputs of a model by sensor, (B, bands, H, W) in the sensor's dtype, and their planes, (B, H, W, channels).

    H and W are `size` where it is given, else open. Bands are z-scored by `scales`. Indices are not: spectral ones stay in
    -1..1, entropy in 0..1.

    Raises:
        UserError: As `scales`.
    """
    images, planes = {}, {}
    for key, sensor in sensors.items():
        images[key] = keras.Input((len(sensor.bands), size, size), dtype=sensor.dtype, name=key)
        planes[key] = Normalize(**scales(sensor, statistics, normalization), name=f"normalize_{key}")(images[key])
        if names := [channel for channel in sensor.channels if channel in INDICES]:
            indices = Indices(sensor.bands, names, sensor.nodata, vars(entropy), name=f"indices_{key}")(images[key])
            positions = [(*sensor.bands, *names).index(channel) for channel in sensor.channels]
            planes[key] = keras.ops.take(
                keras.layers.Concatenate(name=f"channels_{key}")([planes[key], indices]), positions, axis=-1
            )
    return images, planes


def scales(sensor: Sensor, statistics: Mapping, normalization: str) -> dict[str, tuple[float, ...] | None]:
    """`mean`, `std` and `clip` of a sensor's bands, in order, by the name of `--normalization`.

    Raises:
        UserError: The name is unknown, or a band has no statistics.
    """
    if normalization == "records":
        rows = {band: (row["mean"], row["std"]) for band, row in statistics.get(sensor.name, {}).items()}
        clip = None
    elif normalization in PUBLISHED:
        rows = PUBLISHED[normalization].get(sensor.name, {})
        clip = PUBLISHED[normalization]["clip"].get(sensor.name)
    else:
        raise unknown("normalization", normalization, ["records", *PUBLISHED])
    missing = [band for band in sensor.bands if rows.get(band, (None,))[0] is None]
    if missing:
        raise UserError(f"normalization {normalization!r} has no statistics for {sensor.name} {', '.join(missing)}")
    mean, std = zip(*(rows[band] for band in sensor.bands), strict=True)
    return {"mean": mean, "std": std, "clip": clip}
