"""The command line: what users and scripts call."""

import os

# Here, because this runs before any module of the command line imports numpy. Nothing in modelfs
# multiplies matrices, and the threads that numpy's BLAS starts spin for a tenth of a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
