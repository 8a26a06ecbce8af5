"""Words that other processes read while this one writes: loads, stores and fences in order.

Compiled code may reorder plain loads and stores; these may not be passed by the ones around them.
They are LLVM's atomics with the orderings of C++: with them a sequence lock is right on any
machine (H.-J. Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012).
"""

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from cluster_core.compiled import JIT_DISABLED

_WORD_BYTES = 8


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    words = context.make_array(array_type)(context, builder, array)
    return builder.gep(words.data, [index])


def _load_acquire(typing_context: Any, words: Any, index: Any) -> Any:
    """`words[index]`; nothing that follows is read before it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        return builder.load_atomic(address, "acquire", _WORD_BYTES)

    return types.uint64(words, types.int64), codegen


def _store_release(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """Set `words[index]`; everything before it is written first."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store_atomic(arguments[2], address, "release", _WORD_BYTES)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.uint64), codegen


def _fence(ordering: str) -> Any:
    def typed(typing_context: Any) -> Any:
        """Keep the loads and stores on its two sides apart."""

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), codegen

    return typed


def _load_plain(words: Any, index: int) -> Any:
    return words[index]


def _store_plain(words: Any, index: int, value: Any) -> None:
    words[index] = value


def _fence_nothing() -> None:
    """The interpreter reorders nothing."""


load_acquire: Any = _load_plain if JIT_DISABLED else intrinsic(_load_acquire)
store_release: Any = _store_plain if JIT_DISABLED else intrinsic(_store_release)
fence_acquire: Any = _fence_nothing if JIT_DISABLED else intrinsic(_fence("acquire"))
fence_release: Any = _fence_nothing if JIT_DISABLED else intrinsic(_fence("release"))
fence_both: Any = _fence_nothing if JIT_DISABLED else intrinsic(_fence("seq_cst"))
