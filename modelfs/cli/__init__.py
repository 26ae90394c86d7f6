"""The command line: what users and scripts call."""

import os

# Nothing here multiplies matrices, and the threads that numpy's BLAS starts when it is imported
# spin for a tenth of a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
