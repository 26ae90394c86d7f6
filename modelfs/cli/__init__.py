"""The command line."""

import os

# Set before any module of the command line imports numpy: modelfs multiplies no matrices, and the
# threads that numpy's BLAS starts would spin for a tenth of a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
