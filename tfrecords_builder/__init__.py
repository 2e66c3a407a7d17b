"""Records from the GeoTIFFs of a data set; `python -m tfrecords_builder --help`."""

# Of a shard, approximately: large enough to be read in one sweep, small enough to be lost without grief.
SHARD_MB = 128

# Of all patches: a source of which more cannot be read is broken, and not just as imperfect as published data are.
MAX_BAD_FRACTION = 0.01
