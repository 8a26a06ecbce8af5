# mypy: disable-error-code="arg-type,return-value,no-any-return"
# In compiled code numba's integers stand where the annotations say int.
"""The open holds: a pool of HOLD records, found by id, and a heap of those that expire.

A hold lies in a slot of the pool, from 1; free slots are linked through `next`. Ids are found by
linear hashing with chaining (Litwin 1980): when holds outnumber buckets, one bucket is split, so
that no command ever waits for a rehash and memory is taken as the store fills. The hash is keyed
by a seed of the process. Holds with a time are in a binary heap of slots, the earliest
(expires_ns, hold_id) first; `heap_place` points back into it, so any hold leaves it in O(log n).
Pool order, buckets and heap are no part of the state: 72 bytes an open hold, all in all.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.books import BOOKS, Books
from cluster_core.compiled import array_type, called, inlined, kernel, prefetch
from cluster_core.record import HOLD

NO_SLOT: Final = 0

_MULTIPLIER_0: Final = np.uint64(0xFF51AFD7ED558CCD)
_MULTIPLIER_1: Final = np.uint64(0xC4CEB9FE1A85EC53)
_ONE: Final = np.uint64(1)
_SHIFT_33: Final = np.uint64(33)


@inlined
def _bucket_of(hold_id: np.uint64, books: Books) -> int:
    """The bucket of an id: its hash's low bits, one bit less where the split hasn't come yet."""
    state = books.ledger[0]
    mixed = (hold_id ^ books.hold_seed) * _MULTIPLIER_0
    mixed = (mixed ^ (mixed >> _SHIFT_33)) * _MULTIPLIER_1
    mixed ^= mixed >> _SHIFT_33
    bucket = np.int64(mixed & state.hold_mask)
    if bucket >= state.hold_buckets:
        bucket = np.int64(mixed & (state.hold_mask >> _ONE))
    return bucket


@inlined
def find_hold(hold_id: np.uint64, books: Books) -> int:
    """The slot of an open hold, or NO_SLOT."""
    slot = np.int64(books.hold_heads[_bucket_of(hold_id, books)])
    while slot != NO_SLOT:
        hold = books.holds[slot]
        if hold.hold_id == hold_id:
            return slot
        slot = np.int64(hold.next)
    return NO_SLOT


@inlined
def prefetch_bucket(hold_id: np.uint64, books: Books) -> None:
    """Fetch the head of an id's bucket."""
    prefetch(books.hold_heads, _bucket_of(hold_id, books))


@inlined
def prefetch_hold(hold_id: np.uint64, books: Books) -> None:
    """Fetch the first hold of an id's bucket; its head should be there by now."""
    prefetch(books.holds, np.int64(books.hold_heads[_bucket_of(hold_id, books)]))


@called
def _split_bucket(books: Books) -> None:
    """Add a bucket and move to it what it takes from the one that it splits."""
    state = books.ledger[0]
    added = state.hold_buckets
    split = added & np.int64(state.hold_mask >> _ONE)
    slot = np.int64(books.hold_heads[split])
    state.hold_buckets = added + 1
    books.hold_heads[split] = NO_SLOT
    books.hold_heads[added] = NO_SLOT
    while slot != NO_SLOT:
        hold = books.holds[slot]
        after = np.int64(hold.next)
        bucket = _bucket_of(hold.hold_id, books)
        hold.next = books.hold_heads[bucket]
        books.hold_heads[bucket] = slot
        slot = after
    if np.uint64(added) == state.hold_mask:
        state.hold_mask = (state.hold_mask << _ONE) | _ONE


@inlined
def _expires_before(one: int, other: int, books: Books) -> bool:
    """Whether the hold in slot `one` comes before that in slot `other`."""
    first, second = books.holds[one], books.holds[other]
    if first.expires_ns != second.expires_ns:
        return first.expires_ns < second.expires_ns
    return first.hold_id < second.hold_id


@called
def _sift_up(place: int, slot: int, books: Books) -> None:
    """Put a slot into the heap at `place`, or above while it is earlier than its parent."""
    heap, holds = books.hold_heap, books.holds
    while place > 1:
        parent = np.int64(heap[place >> 1])
        if not _expires_before(slot, parent, books):
            break
        heap[place] = parent
        holds[parent].heap_place = place
        place >>= 1
    heap[place] = slot
    holds[slot].heap_place = place


@called
def _sift_down(place: int, slot: int, books: Books) -> None:
    """Put a slot into the heap at `place`, or below while a child is earlier."""
    heap, holds = books.hold_heap, books.holds
    count = books.ledger[0].timed_holds
    while 2 * place <= count:
        child = 2 * place
        if child < count and _expires_before(
            np.int64(heap[child + 1]), np.int64(heap[child]), books
        ):
            child += 1
        earlier = np.int64(heap[child])
        if not _expires_before(earlier, slot, books):
            break
        heap[place] = earlier
        holds[earlier].heap_place = place
        place = child
    heap[place] = slot
    holds[slot].heap_place = place


@called
def _leave_heap(place: int, books: Books) -> None:
    """The last of the heap takes the place of the one that leaves."""
    state = books.ledger[0]
    last = np.int64(books.hold_heap[state.timed_holds])
    state.timed_holds -= 1
    if place > state.timed_holds:
        return
    if place > 1 and _expires_before(last, np.int64(books.hold_heap[place >> 1]), books):
        _sift_up(place, last, books)
    else:
        _sift_down(place, last, books)


@inlined
def take_slot(books: Books) -> int:
    """A free slot for a hold; there must be one. The caller fills it, then enters it."""
    state = books.ledger[0]
    slot = state.free_hold_slot
    if slot != NO_SLOT:
        state.free_hold_slot = np.int64(books.holds[slot].next)
    else:
        slot = state.used_hold_slots + 1
        state.used_hold_slots = slot
    return slot


@called
def enter_hold(slot: int, books: Books) -> None:
    """Make the hold in a taken slot one of the open ones."""
    state = books.ledger[0]
    hold = books.holds[slot]
    bucket = _bucket_of(hold.hold_id, books)
    hold.next = books.hold_heads[bucket]
    hold.heap_place = 0
    books.hold_heads[bucket] = slot
    state.open_holds += 1
    if state.open_holds > state.hold_buckets:
        _split_bucket(books)
    if hold.expires_ns != 0:
        state.timed_holds += 1
        _sift_up(state.timed_holds, slot, books)


@called
def close_hold(slot: int, books: Books) -> None:
    """Forget an open hold and free its slot."""
    state, holds = books.ledger[0], books.holds
    hold = holds[slot]
    bucket = _bucket_of(hold.hold_id, books)
    at = np.int64(books.hold_heads[bucket])
    if at == slot:
        books.hold_heads[bucket] = hold.next
    else:
        while np.int64(holds[at].next) != slot:
            at = np.int64(holds[at].next)
        holds[at].next = hold.next
    if hold.heap_place != 0:
        _leave_heap(np.int64(hold.heap_place), books)
    hold.hold_id = 0
    hold.next = state.free_hold_slot
    state.free_hold_slot = slot
    state.open_holds -= 1


@kernel(types.void(array_type(HOLD, readonly=True), BOOKS))
def enter_restored_holds(restored: npt.NDArray[Any], books: Books) -> None:
    """Make HOLD [n <= capacity], rising by id, the open ones of an empty store."""
    for row in range(restored.shape[0]):
        source = restored[row]
        slot = take_slot(books)
        hold = books.holds[slot]
        hold.hold_id = source.hold_id
        hold.debit_account = source.debit_account
        hold.credit_account = source.credit_account
        hold.remaining = source.remaining
        hold.expires_ns = source.expires_ns
        hold.opened_sequence = source.opened_sequence
        hold.code = source.code
        hold.asset = source.asset
        enter_hold(slot, books)


@kernel(types.int64(types.uint64, BOOKS))
def slot_of_hold(hold_id: np.uint64, books: Books) -> int:
    """`find_hold` for callers outside the kernels."""
    return find_hold(hold_id, books)


@inlined
def _add_place(place: int, count: int, frontier: npt.NDArray[np.int64], books: Books) -> None:
    """Add a place of the hold heap to the `count` in `frontier`, a heap of such places."""
    heap = books.hold_heap
    at = count
    while at > 0:
        parent = (at - 1) >> 1
        if not _expires_before(np.int64(heap[place]), np.int64(heap[frontier[parent]]), books):
            break
        frontier[at] = frontier[parent]
        at = parent
    frontier[at] = place


@inlined
def _drop_first(count: int, frontier: npt.NDArray[np.int64], books: Books) -> None:
    """Take the earliest from the `count` places in `frontier`."""
    heap = books.hold_heap
    last, left = frontier[count - 1], count - 1
    at = 0
    while 2 * at + 1 < left:
        child = 2 * at + 1
        if child + 1 < left and _expires_before(
            np.int64(heap[frontier[child + 1]]), np.int64(heap[frontier[child]]), books
        ):
            child += 1
        if not _expires_before(np.int64(heap[frontier[child]]), np.int64(heap[last]), books):
            break
        frontier[at] = frontier[child]
        at = child
    frontier[at] = last


@kernel(types.int64(types.int64, array_type(np.uint64), array_type(np.int64), BOOKS))
def list_expired(
    timestamp_ns: int,
    found: npt.NDArray[np.uint64],
    frontier: npt.NDArray[np.int64],
    books: Books,
) -> int:
    """Fill `found` u64 [limit] with the ids of holds whose time has come; returns how many.

    The earliest (expires_ns, hold_id) first. Changes nothing: it walks the heap from its root,
    never below a hold that isn't due, with the places to visit next in `frontier` i64 [limit + 1].
    """
    holds, heap, timed = books.holds, books.hold_heap, books.ledger[0].timed_holds
    waiting, count = 0, 0
    if timed > 0 and holds[heap[1]].expires_ns <= timestamp_ns:
        frontier[0] = 1
        waiting = 1
    while waiting > 0 and count < found.shape[0]:
        place = frontier[0]
        found[count] = holds[heap[place]].hold_id
        count += 1
        _drop_first(waiting, frontier, books)
        waiting -= 1
        for child in range(2 * place, min(2 * place + 1, timed) + 1):
            if holds[heap[child]].expires_ns <= timestamp_ns:
                _add_place(child, waiting, frontier, books)
                waiting += 1
    return count
