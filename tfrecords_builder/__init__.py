"""Records from the GeoTIFFs of a data set; `python -m tfrecords_builder --help`."""

# Of a shard, approximately: large enough to be read in one sweep, small enough to be lost without grief.
SHARD_MB = 128
