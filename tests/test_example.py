import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfrs import example

names = st.text(max_size=20).filter(lambda name: name.isprintable() or not name)
integers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)
floats = hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_nan=False))
features = st.dictionaries(names, st.binary(max_size=300) | floats | integers, max_size=6)


def protobuf(values):
    """The same features as TensorFlow's own message."""
    message = tf.train.Example()
    message.features.SetInParent()  # written even where it is empty
    for name, value in values.items():
        feature = message.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, np.ndarray):
            feature.float_list.value.extend(value.tolist())
            feature.float_list.SetInParent()
        else:
            feature.int64_list.value.extend(value)
            feature.int64_list.SetInParent()
    return message


def packed(values):
    return b"".join(example.pack(values)[0])


@given(features)
def test_packed_features_are_an_example(values):
    assert tf.train.Example.FromString(packed(values)) == protobuf(values)


@given(features, st.binary(max_size=5), st.binary(max_size=5), st.sampled_from([bytes, memoryview, np.frombuffer]))
def test_examples_of_protobuf_are_parsed_in_place(values, before, after, form):
    data = protobuf(values).SerializeToString()
    buffer = before + data + after
    array = form(buffer, np.uint8) if form is np.frombuffer else form(buffer)
    found = example.parse(array, len(before), len(before) + len(data))
    assert found.keys() == values.keys()
    for name, value in found.items():
        if isinstance(values[name], bytes):
            assert buffer[slice(*value)] == values[name]
        else:
            np.testing.assert_array_equal(value, values[name])


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 70000])
def test_lengths_around_the_steps_of_a_varint(size):
    rng = np.random.default_rng(size)
    values = {"raster": rng.bytes(size), "n" * size: [size], "floats": rng.random(size).astype(np.float32)}
    assert tf.train.Example.FromString(packed(values)) == protobuf(values)


def test_extreme_numbers():
    values = {"i": [-(2**63), -1, 0, 2**63 - 1], "f": np.array([np.nan, -np.inf, 1e-45, 3.4e38], np.float32)}
    message = tf.train.Example.FromString(packed(values))
    assert list(message.features.feature["i"].int64_list.value) == values["i"]
    np.testing.assert_array_equal(np.float32(message.features.feature["f"].float_list.value), values["f"])
    data = message.SerializeToString()
    np.testing.assert_array_equal(example.parse(data, 0, len(data))["f"], values["f"])
    assert example.parse(data, 0, len(data))["i"] == values["i"]


def test_a_memoryview_is_its_bytes():
    pixels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    message = tf.train.Example.FromString(packed({"s2": memoryview(pixels)}))
    assert message.features.feature["s2"].bytes_list.value == [pixels.tobytes()]


def test_large_values_are_not_copied():
    pixels = np.arange(5000, dtype=np.uint16)
    values = {"s1": memoryview(pixels), "name": b"x", "s2": memoryview(pixels), "label": [3]}
    chunks, spans = example.pack(values)
    assert [np.shares_memory(np.frombuffer(chunk, np.uint8), pixels) for chunk in chunks] == [False, True, False, True, False]
    data = b"".join(chunks)
    assert data[slice(*spans["s2"])] == pixels.tobytes() and data[slice(*spans["name"])] == b"x"
    features = tf.train.Example.FromString(data).features.feature
    assert features["s1"].bytes_list.value == features["s2"].bytes_list.value == [pixels.tobytes()]
    assert (features["name"].bytes_list.value, features["label"].int64_list.value) == ([b"x"], [3])


def test_order_of_the_names_is_kept():
    data = packed({"small": [1], "large": bytes(1000), "a": b"x"})
    assert data.index(b"small") < data.index(b"large") < data.index(b"\x0a\x01a")


def assert_refused_or_an_example(data):
    """As a part of a larger buffer: a reader that runs over the end finds something there."""
    try:
        example.parse(data + bytes(8), 0, len(data))
    except ValueError:
        return
    tf.train.Example.FromString(data)


@given(st.binary(max_size=60))
def test_garbage_is_refused(garbage):
    assert_refused_or_an_example(garbage)


@pytest.mark.parametrize("bit", range(8))
def test_an_example_with_a_flipped_bit_is_refused_or_another_example(bit):
    sound = protobuf({"key": b"River_1", "label": [3, -1], "f": np.float32([1.5])}).SerializeToString()
    for at in range(len(sound)):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << bit
        assert_refused_or_an_example(bytes(damaged))


def test_truncated_examples_are_refused():
    whole = protobuf({"key": b"River_1", "label": [300], "f": np.float32([1.5])}).SerializeToString()
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            example.parse(whole[:length], 0, length)


def test_a_list_of_several_bytes_is_refused():
    message = tf.train.Example()
    message.features.feature["s2"].bytes_list.value.extend([b"one", b"two"])
    data = message.SerializeToString()
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example: expected one field"):
        example.parse(data, 0, len(data))
