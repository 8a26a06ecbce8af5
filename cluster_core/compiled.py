"""How the kernels are compiled, and the memory that they work on.

Every kernel has an explicit signature, so importing its module compiles it or loads it from the
cache: once a process says it is ready, nothing is compiled any more. Numba notices a change in a
kernel's own file only, so the cache folder's name holds a digest of all of cluster_core's sources.
"""

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from blake3 import blake3
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

MAP_NORESERVE: Final = 0x4000
"""Linux: the mapping is sparse, so the kernel need not promise memory for all of it."""

_HUGE_PAGE_BYTES: Final = 1 << 21


_NO_COUNTS: Final[Any] = {"_nrt": False}
"""Kernels make no arrays, so they need not count references: counting halved the transfer rate."""


def _cache_folder() -> Path:
    sources = blake3()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(source.read_bytes())
    root = os.environ.get("RINGLEDGER_CACHE") or os.environ.get("XDG_CACHE_HOME")
    base = Path(root) if root else Path.home() / ".cache"
    folder = base / "ringledger" / f"kernels-{sources.hexdigest(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        fallback = Path(tempfile.gettempdir()) / f"ringledger-{os.getuid()}" / folder.name
        fallback.mkdir(parents=True, exist_ok=True, mode=0o700)
        return fallback


_config: Any = numba.config
_config.CACHE_DIR = str(_cache_folder())

JIT_DISABLED: Final = bool(_config.DISABLE_JIT)
"""NUMBA_DISABLE_JIT leaves the kernels to the interpreter: for tests of their lines."""


def kernel(signature: Any) -> Callable[[F], F]:
    """Compile a function when its module is imported; it runs without the GIL."""
    if JIT_DISABLED:
        return np.errstate(over="ignore")
    decorate: Callable[[F], F] = numba.njit(signature, cache=True, nogil=True, **_NO_COUNTS)
    return decorate


def inlined(function: F) -> F:
    """Compile a function into each of its callers: for what is small, or what a hot loop holds."""
    compiled: F = numba.njit(function, forceinline=True, **_NO_COUNTS)
    return compiled


def called(function: F) -> F:
    """Compile a function that kernels call: for what is large, or rare in a hot loop."""
    compiled: F = numba.njit(function, **_NO_COUNTS)
    return compiled


def array_type(dtype: npt.DTypeLike, dimensions: int = 1, *, readonly: bool = False) -> Any:
    """Numba's type of a C-contiguous array of `dtype`, for a kernel's signature."""
    return types.Array(numba.from_dtype(np.dtype(dtype)), dimensions, "C", readonly=readonly)


def records(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as kernels take it: as it is, or with fields as attributes for the interpreter."""
    return array.view(np.recarray) if JIT_DISABLED and array.dtype.names else array


def sparse_array(count: int, dtype: npt.DTypeLike, *, columns: int = 1) -> npt.NDArray[Any]:
    """A zeroed array of `count` rows whose memory is taken page by page, as it is first written.

    Large ones ask for 2 MiB pages: they are hit at random, and filled four times as fast.
    Raises OSError when the address space itself is refused.
    """
    row_bytes = np.dtype(dtype).itemsize * columns
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    pages = mmap.mmap(-1, max(count * row_bytes, 1), flags=flags)
    if count * row_bytes >= _HUGE_PAGE_BYTES:
        pages.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(pages, dtype, count=count * columns)
    return records(array.reshape(count, columns) if columns > 1 else array)


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of `array[index]` (a row of it) ahead of its use."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_of = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(array_of.strides, 0)
        address = builder.ptrtoint(array_of.data, stride.type)
        address = builder.add(address, builder.mul(stride, arguments[1]))
        pointer_type = cgutils.voidptr_t
        i32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer_type, i32, i32, i32]),
            "llvm.prefetch.p0",
        )
        to_write, keep_close, data = i32(1), i32(3), i32(1)
        builder.call(
            function,
            [builder.inttoptr(address, pointer_type), to_write, keep_close, data],
        )
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


def _prefetch_nothing(array: Any, index: int) -> None:
    """Stands in where NUMBA_DISABLE_JIT leaves the kernels to the interpreter."""


prefetch: Any = _prefetch_nothing if JIT_DISABLED else intrinsic(_prefetch)
