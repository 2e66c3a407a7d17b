"""Records from the GeoTIFFs of a data set; `python -m tfrecords_builder --help`."""

import os

# Before NumPy is imported, here and in worker processes: those are the threads, and the ones of BLAS would get in their way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Of a shard, approximately: large enough to be read in one sweep, small enough to be lost without grief.
SHARD_MB = 128

# Of all patches: a source of which more cannot be read is broken, and not just as imperfect as published data are.
MAX_BAD_FRACTION = 0.01
