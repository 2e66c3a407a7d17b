"""The fields of a record: encoded and decoded here and nowhere else."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tfrs import example
from tfrs.errors import UserError
from tfrs.labels import Scheme

Sample = dict[str, np.ndarray | int | str]

_TFDS = "tensorflow_datasets.core.features."


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
        kind: `raster` (a band-first array as little-endian bytes), `text`, `label` (one class id), `labels` (ids of the
            classes present), `fractions` (float32 per class) or `vector` (numbers as little-endian bytes, exact for
            float64, which an Example's float list is not).
        dtype: NumPy name of the element type of a raster or vector.
        shape: Shape of a raster (C, H, W) or vector (N,). A series of rasters has (-1, C, H, W): its length T varies.
        scheme: Name of the class scheme of a label, labels or fractions field, or of a map: a raster whose first band has the
            scheme's numbers.
    """

    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    scheme: str = ""

    @property
    def series(self) -> bool:
        return self.shape[:1] == (-1,)

    @property
    def nbytes(self) -> int:
        """Size of a raster or vector, or of one raster of a series; 0 for other kinds."""
        return abs(math.prod(self.shape)) * np.dtype(self.dtype).itemsize if self.dtype else 0

    def steps(self, size: int) -> int:
        """Length T of a series of `size` bytes.

        Raises:
            ValueError: It is empty or no whole number of rasters.
        """
        if not size or size % self.nbytes:
            raise ValueError(f"{size} bytes are no series of rasters of {self.nbytes} bytes")
        return size // self.nbytes

    @property
    def stored(self) -> np.dtype:
        """Element type as stored: little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")


@dataclass(frozen=True)
class Schema:
    """The fields of a record by name, and the class schemes that they refer to."""

    fields: Mapping[str, Field]
    schemes: Mapping[str, Scheme] = field(default_factory=dict)

    def scheme(self, name: str) -> Scheme:
        """The class scheme of a label, labels or fractions field, or of a map."""
        return self.schemes[self.fields[name].scheme]

    def classes(self, name: str) -> int:
        """Number of classes of such a field."""
        return len(self.scheme(name).classes)

    def maps(self) -> list[str]:
        """Names of the rasters whose first band is a map of classes."""
        return [name for name, spec in self.fields.items() if spec.kind == "raster" and spec.scheme]

    def texts(self) -> list[str]:
        """Names of the text fields: the key, dates and the like."""
        return [name for name, spec in self.fields.items() if spec.kind == "text"]

    def check_sizes(self, names: Iterable[str]) -> None:
        """Raise a UserError where rasters differ in height or width."""
        sizes = {name: self.fields[name].shape[-2:] for name in names}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
            raise UserError(f"the input takes rasters of different sizes ({listed}); build without --native_resolution")

    def encode(self, sample: Sample) -> bytes:
        """Serialise a sample as `tf.train.Example`.

        Raises:
            ValueError: A field is missing, unexpected, or of another shape or dtype than declared.
        """
        return b"".join(self.chunks(sample)[0])

    def chunks(self, sample: Sample) -> tuple[list[bytes | memoryview], dict[str, tuple[int, int]]]:
        """What `encode` joins, and per field its span; rasters are views of the sample's, where they are stored as they are."""
        if sample.keys() != self.fields.keys():
            raise ValueError(f"sample has {sorted(sample)}, schema has {sorted(self.fields)}")
        return example.pack({name: self._to_value(name, sample[name]) for name in self._small_first})

    @functools.cached_property
    def _small_first(self) -> list[str]:
        # Labels before rasters: a reader that wants only them touches one page of the file.
        return sorted(self.fields, key=lambda name: self.fields[name].nbytes)

    def _to_value(self, name: str, value):
        spec = self.fields[name]
        if spec.kind == "text":
            return value.encode()
        if spec.kind == "label":
            return [int(value)]
        if spec.kind == "labels":
            return [int(v) for v in value]
        shape = spec.shape or (self.classes(name),)
        dtype = spec.dtype or "float32"
        if spec.series and not len(value):
            raise ValueError(f"{name} is a series without an image")
        if value.dtype != dtype or value.shape != (value.shape[:1] + shape[1:] if spec.series else shape):
            raise ValueError(f"{name} is {value.dtype} {value.shape}, schema says {dtype} {shape}")
        if spec.kind == "fractions":
            return value
        return memoryview(np.ascontiguousarray(value, spec.stored)).cast("B")

    def parse(self, buffer, start: int = 0, end: int | None = None) -> Sample:
        """Decode one serialised record with NumPy; rasters are views of `buffer` where that is possible."""
        spans = self.locate(buffer, start, len(buffer) if end is None else end)
        return {name: self.value(buffer, name, value) for name, value in spans.items()}

    def locate(self, buffer, start: int, end: int) -> dict:
        """`example.parse` of one record, checked against the schema: every field there, every raster of its size."""
        found = example.parse(buffer, start, end)
        if found.keys() != self.fields.keys():
            raise ValueError(f"record has fields {sorted(found)}, manifest says {sorted(self.fields)}")
        for name, value in found.items():
            spec = self.fields[name]
            form = {"label": list, "labels": list, "fractions": np.ndarray}.get(spec.kind, tuple)
            if not isinstance(value, form) or (spec.kind == "label" and len(value) != 1):
                raise ValueError(f"{name} is no {spec.kind}")
            if spec.series:
                spec.steps(value[1] - value[0])
            elif spec.nbytes and value[1] - value[0] != spec.nbytes:
                raise ValueError(f"{name} has {value[1] - value[0]} bytes, manifest says {spec.nbytes}")
            if spec.kind == "fractions" and len(value) != self.classes(name):
                raise ValueError(f"{name} has {len(value)} values, manifest says {self.classes(name)}")
            if spec.kind in ("label", "labels") and any(not 0 <= v < self.classes(name) for v in value):
                raise ValueError(f"{name} {value} is outside the {self.classes(name)} classes of {spec.scheme}")
        return found

    def value(self, buffer, name: str, value):
        """A field of one record from what `locate` found of it."""
        spec = self.fields[name]
        if spec.kind == "text":
            return bytes(buffer[slice(*value)]).decode()
        if spec.kind == "label":
            return value[0]
        if spec.kind == "labels":
            return np.array(value, np.int64)
        if spec.kind == "fractions":
            return value
        return np.frombuffer(buffer[slice(*value)], spec.stored).reshape(spec.shape)

    def decode(self, serialized, keys: Iterable[str] | None = None) -> dict:
        """Decode one serialised record with TensorFlow.

        Args:
            serialized: Scalar string tensor.
            keys: The fields wanted; all where None.

        Returns:
            Per name a tensor: rasters (C, H, W), series (T, C, H, W) and vectors in their dtype, text as string,
            `label` as int64, `labels` as multi-hot uint8 (classes,), `fractions` as float32 (classes,).
        """
        import tensorflow as tf

        names = list(self.fields) if keys is None else list(keys)
        parsed = tf.io.parse_single_example(serialized, {name: self._tf_feature(name) for name in names})
        for name in names:
            spec = self.fields[name]
            if spec.nbytes:
                parsed[name] = tf.reshape(tf.io.decode_raw(parsed[name], tf.as_dtype(spec.dtype)), spec.shape)
            elif spec.kind == "labels":
                present = tf.one_hot(parsed[name], self.classes(name), dtype=tf.uint8)
                parsed[name] = tf.reduce_max(tf.pad(present, [[1, 0], [0, 0]]), axis=0)  # the pad row: no class at all
        return {name: parsed[name] for name in names}

    def _tf_feature(self, name: str):
        import tensorflow as tf

        kind = self.fields[name].kind
        if kind == "label":
            return tf.io.FixedLenFeature([], tf.int64)
        if kind == "labels":
            return tf.io.RaggedFeature(tf.int64)
        if kind == "fractions":
            return tf.io.FixedLenFeature([self.classes(name)], tf.float32)
        return tf.io.FixedLenFeature([], tf.string)

    def to_json(self) -> dict:
        """The form in `manifest.json`."""
        fields = {name: {k: v for k, v in vars(spec).items() if v not in ("", ())} for name, spec in self.fields.items()}
        return {"fields": fields, "schemes": {name: scheme.to_json() for name, scheme in self.schemes.items()}}

    @classmethod
    def from_json(cls, form: dict) -> "Schema":
        fields = {n: Field(**{**spec, "shape": tuple(spec.get("shape", ()))}) for n, spec in form["fields"].items()}
        schemes = {
            n: Scheme(n, tuple(s["classes"]), tuple(s["numbers"]), tuple(s["colors"])) for n, s in form["schemes"].items()
        }
        return cls(fields, schemes)

    def tfds_features(self) -> dict:
        """The content of TensorFlow Datasets' `features.json`, so that it reads the records without this package."""
        return {
            "pythonClassName": _TFDS + "features_dict.FeaturesDict",
            "featuresDict": {"features": {name: self._tfds_feature(name) for name in sorted(self.fields)}},
        }

    def _tfds_feature(self, name: str) -> dict:
        spec = self.fields[name]
        if spec.kind == "text":
            return {"pythonClassName": _TFDS + "text_feature.Text", "text": {}}
        if spec.kind in ("label", "labels"):
            label = {
                "pythonClassName": _TFDS + "class_label_feature.ClassLabel",
                "classLabel": {"numClasses": str(self.classes(name))},
            }
            if spec.kind == "label":
                return label
            return {
                "pythonClassName": _TFDS + "sequence_feature.Sequence",
                "sequence": {"feature": label, "length": "-1"},
            }
        shape = spec.shape or (self.classes(name),)
        tensor = {
            "dtype": spec.dtype or "float32",
            "encoding": "bytes" if spec.dtype else "none",
            "shape": {"dimensions": [str(n) for n in shape]},
        }
        return {"pythonClassName": _TFDS + "tensor_feature.Tensor", "tensor": tensor}
