"""One thread for the BLAS library behind JAX's LAPACK calls on the CPU: several deadlock.

JAX hands QR and SVD to the OpenBLAS that scipy ships, from several of its own threads at once: the matrices of a batch,
and the programs of several CPU devices. Each call then waits in OpenBLAS's `exec_blas_async_wait` for OpenBLAS's own
workers, and now and then for ever. Seen with jaxlib 0.10.2 and scipy 1.17 on two cores: a batch of 64 QR decompositions
of 512 x 64 split over two devices hung in every try; with one BLAS thread it never did. One thread is also the faster
setting for matrices of this size. JAX's own parallelism is untouched.
"""

from __future__ import annotations

import scipy.linalg  # noqa: F401 - loads the library that is to be limited
from threadpoolctl import ThreadpoolController


def use_one_thread() -> None:
    """Limit every loaded OpenBLAS but NumPy's private one to a single thread, for the rest of the process."""
    for library in ThreadpoolController().lib_controllers:
        if library.internal_api == "openblas" and "numpy.libs" not in str(library.filepath):
            library.set_num_threads(1)
