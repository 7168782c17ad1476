# Queues of threads: each waits on a condition of its own, so that one of them can be woken. All calls are with the
# mutex of the queue's owner.

from kifa._platform cimport pthread_cond_signal, pthread_cond_t


cdef struct Waiter:
    # A thread that waits, in a ring that a Waiter without a thread begins.
    pthread_cond_t condition
    bint woken
    Waiter *next
    Waiter *previous


cdef inline void empty_ring(Waiter *ring) noexcept nogil:
    ring.next = ring
    ring.previous = ring


cdef inline void release_all(Waiter *ring, Waiter *released) noexcept nogil:
    # Moves who waits in one ring to the end of the other.
    if ring.next == ring:
        return
    ring.next.previous = released.previous
    released.previous.next = ring.next
    ring.previous.next = released
    released.previous = ring.previous
    empty_ring(ring)


cdef inline void wake_first(Waiter *ring) noexcept nogil:
    cdef Waiter *first = ring.next
    if first != ring:
        first.next.previous = ring
        ring.next = first.next
        first.woken = True
        pthread_cond_signal(&first.condition)
