"""What jaxlib makes of a library call on many matrices: one call, or a loop on the host. No command.

Read in jaxlib's source (github.com/jax-ml/jax, main of 2026; the file of each row is named), not measured. A GPU's loop
launches matrix after matrix, each on a few of the device's processors; XLA's text shows one call either way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from hlo import Array, Instruction, Module

BATCHED, BLOCKS = "batched", "batched, in blocks of runs"
LOOPED, FEWER, UNKNOWN = "looped on the host", "looped over runs", "not in the table"
PARALLEL = (BATCHED, BLOCKS)  # the verdicts that are as they should be
_BLOCK = 64  # matrices that a device has something to do with: half of an H100's processors
_SOLVER = "jaxlib/gpu/solver_kernels_ffi.cc"


@dataclass(frozen=True)
class Call:
    """A library call: how many matrices [rows, columns] it gets, and its attributes as written."""

    target: str
    matrices: int
    rows: int
    columns: int
    dtype: str
    attributes: str

    def has(self, attribute: str, value: str) -> bool:
        """Whether the call's own configuration sets an attribute to a value."""
        return re.search(rf"\b{attribute}\s*=\s*{value}\b", self.attributes) is not None


@dataclass(frozen=True)
class Row:
    """Which calls of a target are one call for all matrices, as words and as a function; where it is read.

    operations: of one matrix of n columns, as a multiple of n^2 rows.
    """

    target: str
    rule: str
    is_batched: Callable[[Call], bool]
    source: str
    operations: float = 2.0


def _few_rows(call: Call) -> bool:
    # Integer division, as there.
    return call.matrices > 1 and max(call.rows, call.columns) // call.matrices <= 128


TABLE = (
    Row("cusolver_syevd_ffi", "always, from jaxlib 0.8 and cuSOLVER 11.7.1 (CUDA 12.6.2) on: XsyevBatched; Jacobi up to"
        " 32 columns", lambda call: True, f"{_SOLVER}, SyevdDispatch, Syevd64Impl; pull request 31375", 9.0),
    Row("cusolver_geqrf_ffi", "rows / matrices and columns / matrices at most 128", _few_rows,
        f"{_SOLVER}, GeqrfDispatch"),
    Row("cusolver_orgqr_ffi", "at most 128 rows and columns", lambda call: max(call.rows, call.columns) <= 128,
        f"{_SOLVER}, OrgqrImpl"),
    Row("cusolver_ormqr_ffi", "at most 128 rows and columns", lambda call: max(call.rows, call.columns) <= 128,
        f"{_SOLVER}, OrmqrImpl"),
    Row("cusolver_getrf_ffi", "square, rows / matrices at most 128",
        lambda call: call.rows == call.columns and _few_rows(call), f"{_SOLVER}, GetrfDispatch"),
    Row("cusolver_potrf_ffi", "always", lambda call: True, f"{_SOLVER}, PotrfDispatch", 1 / 3),
    Row("cusolver_gesvdj_ffi", "at most 32 rows and columns, and full matrices asked for",
        lambda call: max(call.rows, call.columns) <= 32 and call.has("full_matrices", "true"),
        f"{_SOLVER}, GesvdjImpl", 9.0),
    Row("cusolver_gesvd_ffi", "never", lambda call: False, f"{_SOLVER}, Gesvd64Impl", 9.0),
    Row("cusolver_sytrd_ffi", "never", lambda call: False, f"{_SOLVER}, SytrdImpl"),
    Row("cusolver_syrk_ffi", "never", lambda call: False, f"{_SOLVER}, SyrkImpl"),
    Row("__cublas$triangularSolve", "always: trsmBatched", lambda call: True,
        "xla/backends/gpu/runtime/triangular_solve_thunk.cc, RunTriangularSolve", 1.0),
    Row("__cublas$gemm|__cublas$lt$matmul", "always: strided batches", lambda call: True,
        "xla/service/gpu/matmul_utils.cc, RunGemm"),
)  # fmt: skip
# Kernels that XLA brings itself, whatever the number of arrays; no call of a solver.
_KERNELS = re.compile(r"__triton|__cudnn\$|__cub\$|__gpu\$TopK|cu_lu_pivots|cu_threefry|xla\.gpu\.|GatherScatter")


def library_call(module: Module, instruction: Instruction) -> Call | None:
    """An instruction as a call of a library, if it is one; the matrices are its first operand."""
    target = instruction.target
    if not (instruction.is_launch and target) or _KERNELS.match(target):
        return None
    operands = module.operands(instruction) or [Array("", ())]
    sizes = (1, 1, *operands[0].sizes)
    return Call(target, math.prod(sizes[:-2]), sizes[-2], sizes[-1], operands[0].dtype, instruction.rest)


def row_of(call: Call) -> Row | None:
    """What the table says of a call's target."""
    return next((row for row in TABLE if call.target in row.target.split("|")), None)


def verdict(call: Call, num_runs: int, backend: str, *, is_in_loop: bool) -> str:
    """One of PARALLEL, or why a call is made matrix by matrix; `num_runs` runs have one matrix each, or several.

    A call in a loop that gets fewer matrices than there are runs is in one over them, written in the program: over
    blocks of them, or over one or a few. In no loop it is of the runs that such blocks leave over. A TPU's program runs
    on the device from end to end: its compiler's kernels get all matrices, so only that can be wrong there.
    """
    if is_in_loop and call.matrices < min(num_runs, _BLOCK):
        return FEWER
    parallel = BATCHED if call.matrices >= num_runs else BLOCKS
    if backend == "tpu" or call.target.startswith("__cublas"):
        return parallel
    row = row_of(call)
    if row is None:
        return UNKNOWN
    return parallel if row.is_batched(call) else LOOPED
