"""Senders to the daemon in C loops, so that what is measured is the daemon and not whoever measures."""

import os
import select

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read, write

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *descriptors, unsigned long count, int timeout_ms)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLL_CTL_ADD
    union epoll_data:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int size, int timeout_ms)

cdef enum:
    ANSWERS_SIZE = 64 * 1024
    MAX_EVENTS = 64
    TIMEOUT_MS = 60_000


cdef double now() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return <double>moment.tv_sec + 1e-9 * <double>moment.tv_nsec


cdef struct Sender:
    int descriptor
    int left        # lines that are not answered yet
    double sent     # when the line in flight was


def round_trips(descriptors: list, bytes line not None, int count):
    """Send ``count`` lines from each of these sockets, each when the one before it was acknowledged.

    Args:
        descriptors: connected sockets of a daemon that runs with ``--ack``.
        line: with its line end.

    Returns:
        The seconds from each line to its acknowledgement.

    Raises:
        OSError: a call failed, or there was no answer for a minute.
        ValueError: an answer is no acknowledgement.
    """
    cdef int senders = len(descriptors)
    cdef Py_ssize_t done = 0, total = <Py_ssize_t>senders * count
    cdef Sender *all_senders = <Sender *>calloc(senders, sizeof(Sender))
    cdef double *seconds = <double *>calloc(max(total, 1), sizeof(double))
    cdef const char *text = line
    cdef ssize_t size = len(line)
    cdef epoll_event event
    cdef int index
    cdef int failure = 0
    waiting = select.epoll()
    cdef int epoll_descriptor = waiting.fileno()
    try:
        if all_senders == NULL or seconds == NULL:
            raise MemoryError()
        for index in range(senders):
            all_senders[index].descriptor = descriptors[index]
            all_senders[index].left = count
            event.events = EPOLLIN
            event.data.u32 = <uint32_t>index
            if epoll_ctl(epoll_descriptor, EPOLL_CTL_ADD, all_senders[index].descriptor, &event):
                raise OSError(errno, os.strerror(errno))
        with nogil:
            failure = run_round_trips(epoll_descriptor, all_senders, senders, text, size, seconds, total)
        check(failure)
        return [seconds[done] for done in range(total)]
    finally:
        waiting.close()
        free(all_senders)
        free(seconds)


cdef enum:
    NOT_ACKNOWLEDGED = -1
    SILENCE = -2


cdef object check(int failure):
    if failure == NOT_ACKNOWLEDGED:
        raise ValueError("the daemon did not acknowledge a line")
    if failure == SILENCE:
        raise TimeoutError("the daemon does not answer")
    if failure:
        raise OSError(failure, os.strerror(failure))


cdef int run_round_trips(
    int epoll, Sender *senders, int count, const char *line, ssize_t size, double *seconds, Py_ssize_t total
) noexcept nogil:
    cdef epoll_event events[MAX_EVENTS]
    cdef char answer[256]
    cdef Sender *sender
    cdef Py_ssize_t done = 0
    cdef int ready, index
    cdef ssize_t got
    for index in range(count):
        senders[index].sent = now()
        if write(senders[index].descriptor, line, size) != size:
            return errno
    while done < total:
        ready = epoll_wait(epoll, events, MAX_EVENTS, TIMEOUT_MS)
        if ready == 0:
            return SILENCE
        if ready < 0:
            if errno == EINTR:
                continue
            return errno
        for index in range(ready):
            sender = &senders[events[index].data.u32]
            got = read(sender.descriptor, answer, sizeof(answer))
            # An answer is far smaller than any segment: it comes whole.
            if got <= 0 or answer[0] != b'A' or answer[got - 1] != b'\n':
                return errno if got < 0 else NOT_ACKNOWLEDGED
            seconds[done] = now() - sender.sent
            done += 1
            sender.left -= 1
            if sender.left:
                sender.sent = now()
                if write(sender.descriptor, line, size) != size:
                    return errno
    return 0


def pipeline(int descriptor, bytes lines not None, int repeats):
    """Send ``lines`` so many times, as fast as they are taken, reading the answers meanwhile; return at the last one.

    Args:
        descriptor: a non-blocking connected socket of a daemon that runs with ``--ack``.

    Raises:
        OSError: a call failed, or nothing moved for a minute.
        ValueError: an answer is no acknowledgement.
    """
    cdef const char *text = lines
    cdef size_t size = len(lines)
    cdef size_t wanted = <size_t>lines.count(b"\n") * repeats
    cdef int failure
    with nogil:
        failure = run_pipeline(descriptor, text, size, repeats, wanted)
    check(failure)


cdef int run_pipeline(int descriptor, const char *lines, size_t size, int repeats, size_t wanted) noexcept nogil:
    cdef char answers[ANSWERS_SIZE]
    cdef pollfd waiting
    cdef size_t sent = 0, answered = 0
    cdef ssize_t moved
    cdef bint at_start = True
    waiting.fd = descriptor
    while answered < wanted:
        waiting.events = POLLIN | (POLLOUT if repeats else 0)
        moved = poll(&waiting, 1, TIMEOUT_MS)
        if moved == 0:
            return SILENCE
        if moved < 0 and errno != EINTR:
            return errno
        if waiting.revents & POLLOUT:
            moved = write(descriptor, lines + sent, size - sent)
            if moved < 0 and errno != EAGAIN and errno != EINTR:
                return errno
            sent += <size_t>max(moved, 0)
            if sent == size:
                sent = 0
                repeats -= 1
        if waiting.revents & ~POLLOUT:
            moved = read(descriptor, answers, ANSWERS_SIZE)
            if moved == 0:
                return NOT_ACKNOWLEDGED
            if moved < 0:
                if errno != EAGAIN and errno != EINTR:
                    return errno
                continue
            moved = count_acknowledged(answers, answers + moved, &at_start)
            if moved < 0:
                return NOT_ACKNOWLEDGED
            answered += <size_t>moved
    return 0


cdef ssize_t count_acknowledged(const char *position, const char *end, bint *at_start) noexcept nogil:
    # How many answers end here; -1 where one does not begin as an acknowledgement does.
    cdef ssize_t found = 0
    cdef const char *line_end
    while position < end:
        if at_start[0] and position[0] != b'A':
            return -1
        line_end = <const char *>memchr(position, b'\n', end - position)
        at_start[0] = line_end != NULL
        if line_end == NULL:
            break
        found += 1
        position = line_end + 1
    return found
