"""Senders while nothing about them needs a decision: all that are ready are read, and their lines framed, in one
call without the interpreter's lock, which may go on to commit them and to answer.

    ready -> read (line buffer) -> frame (one hold of the log's mutex) -> note what each is to be told
          -> commit -> durable LSN -> `kifa._answers` tells them

What is not so plain, the end of a stream, an error, a refused line, a full segment or disk, a log that is poisoned, is
handed to Python as it stands: nothing is taken out of a line buffer that was not framed.
"""

import os

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from kifa._answers cimport AnswerQueue, Answers
from kifa._group cimport STATUS_OK
from kifa._lines cimport LineBuffer
from kifa._platform cimport monotonic, pthread_mutex_lock, pthread_mutex_unlock
from kifa._wal cimport LogWriter

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
    union epoll_data:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int size, int timeout_ms)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<unistd.h>" nogil:
    int close(int descriptor)

cdef enum:
    MAX_READY = 256
    # So much is worth a sync, whoever else is expected.
    ENOUGH_SIZE = 64 * 1024

# What a sender needs to come back: it wakes up, reads, and writes; measured, 20 to 40 us, and 10 for each further one.
cdef double return_seconds = 60e-6


cdef class Sender:
    """What is known here of one connection or pipe; what it does where a decision is needed, sources say."""

    cdef readonly int descriptor
    cdef int answers_to
    cdef readonly LineBuffer lines
    cdef public Answers answers         # None where nobody is to be told
    cdef public double last_read
    cdef public size_t oversize         # of a line that was thrown away; 0 where none was, or Python knows

    def __init__(self, int descriptor, LineBuffer lines, Answers answers, int answers_to=-1):
        """Begin with what came, none yet, and what is to be told, if anything is.

        Args:
            descriptor: of a socket, or what it is read from.
            answers_to: what answers are written to, where that is another one.
        """
        self.descriptor = descriptor
        self.answers_to = answers_to
        self.lines = lines
        self.answers = answers
        self.last_read = monotonic()

    def store(self):
        """Store, or refuse, what was read."""
        raise NotImplementedError

    def read(self):
        """Read one chunk and store it."""
        raise NotImplementedError


cdef class Senders:
    """Those of whom nothing but lines is expected. Whoever adds one keeps it alive until it removes it."""

    cdef int epoll
    cdef AnswerQueue queue
    cdef void **by_descriptor
    cdef int descriptor_count
    cdef epoll_event events[MAX_READY]
    cdef void *filled[MAX_READY]        # read, and not framed yet
    cdef int filled_count
    cdef void *to_read[MAX_READY]
    cdef int to_read_count
    cdef void *to_store[MAX_READY]
    cdef int to_store_count
    cdef size_t framed_size
    cdef bint is_out_of_memory

    def __cinit__(self):
        self.epoll = -1

    def __init__(self, AnswerQueue queue not None):
        """Begin without any.

        Args:
            queue: of their answers.
        """
        self.queue = queue
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self.epoll >= 0:
            close(self.epoll)
        free(self.by_descriptor)

    def fileno(self):
        """A descriptor that is readable when one of them is."""
        return self.epoll

    def add(self, Sender sender not None):
        """Read from this sender, in `receive`; and send its answers here.

        Raises:
            PermissionError: it is a file, or something else that is always ready.
        """
        cdef epoll_event event
        cdef void *moved
        cdef int count = sender.descriptor + 64
        if sender.descriptor >= self.descriptor_count:
            moved = realloc(self.by_descriptor, <size_t>count * sizeof(void *))
            if moved == NULL:
                raise MemoryError()
            self.by_descriptor = <void **>moved
            memset(
                self.by_descriptor + self.descriptor_count, 0,
                <size_t>(count - self.descriptor_count) * sizeof(void *),
            )
            self.descriptor_count = count
        event.events = EPOLLIN
        event.data.fd = sender.descriptor
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, sender.descriptor, &event):
            raise OSError(errno, os.strerror(errno))
        self.by_descriptor[sender.descriptor] = <void *>sender
        if sender.answers is None:
            return
        if sender.answers_to < 0:
            sender.answers.send_to(sender.descriptor)
        else:
            sender.answers.send_to(sender.answers_to, is_socket=False)

    def remove(self, Sender sender not None):
        """Leave it to Python."""
        assert self.by_descriptor[sender.descriptor] == <void *>sender
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, sender.descriptor, &self.events[0])
        self.by_descriptor[sender.descriptor] = NULL
        if sender.answers is not None:
            sender.answers.send_to(-1)

    def receive(self, LogWriter writer not None, bint may_frame, bint may_commit):
        """Read from all that are ready and frame their lines.

        Those who are expected back are given a moment to come. Without ``may_frame`` nothing is read. With
        ``may_commit``, and where it is little and nothing is left to others, it is made durable and answered as well.

        Returns:
            The bytes framed; senders whose lines wait to be framed, and senders that wait to be read, which
            end or fail.
        """
        with nogil:
            self.framed_size = 0
            self.to_read_count = self.to_store_count = 0
            self.gather(writer, self.queue, may_frame)
            if (
                may_commit and 0 < self.framed_size < ENOUGH_SIZE
                and not self.to_store_count and not self.to_read_count
            ):
                commit_and_tell(writer, self.queue)
        if self.is_out_of_memory:
            raise MemoryError()
        return (
            self.framed_size,
            [<Sender>self.to_store[index] for index in range(self.to_store_count)],
            [<Sender>self.to_read[index] for index in range(self.to_read_count)],
        )

    cdef void gather(self, LogWriter writer, AnswerQueue queue, bint may_frame) noexcept nogil:
        cdef double deadline = queue.answered_at + min(
            2 * writer.sync_seconds, (queue.expected + 1) * return_seconds
        )
        cdef double now
        cdef int ready
        while True:
            ready = epoll_wait(self.epoll, self.events, MAX_READY, 0)
            if ready < 0:
                return
            now = monotonic()
            if ready:
                self.read_ready(ready, may_frame, now)
                self.frame_filled(writer)
            if self.to_read_count or self.to_store_count or ready == MAX_READY:
                return
            if not queue.expected or not 0 < self.framed_size < ENOUGH_SIZE or writer.in_flight:
                return
            if now >= deadline:
                queue.give_up()
                return
            if not ready:
                sched_yield()  # whoever is waited for may need this core

    cdef void read_ready(self, int ready, bint may_frame, double now) noexcept nogil:
        cdef int index
        cdef ssize_t got
        cdef void *sender
        self.filled_count = 0
        for index in range(ready):
            sender = self.by_descriptor[self.events[index].data.fd]
            got = read_one(<Sender>sender, now) if may_frame else 0
            if got > 0:
                self.filled[self.filled_count] = sender
                self.filled_count += 1
            elif got != -EAGAIN and got != -EINTR:
                self.to_read[self.to_read_count] = sender
                self.to_read_count += 1

    cdef void frame_filled(self, LogWriter writer) noexcept nogil:
        cdef int index
        if not self.filled_count:
            return
        pthread_mutex_lock(&writer.mutex)
        writer.await_batch()
        for index in range(self.filled_count):
            if not self.frame_one(writer, <Sender>self.filled[index], (<Sender>self.filled[index]).lines):
                self.to_store[self.to_store_count] = self.filled[index]
                self.to_store_count += 1
        pthread_mutex_unlock(&writer.mutex)

    cdef bint frame_one(self, LogWriter writer, Sender sender, LineBuffer lines) noexcept nogil:
        # Whether all its whole lines were framed.
        cdef size_t before = lines.end - lines.start
        cdef uint64_t first_lsn = 0
        cdef uint64_t count = 0
        cdef int reason = 0
        cdef int status = writer.frame_available(lines, False, &first_lsn, &count, &reason)
        self.framed_size += before - (lines.end - lines.start)
        if count and sender.answers is not None and not sender.answers.note(first_lsn, count):
            self.is_out_of_memory = True
        if status == STATUS_OK and reason == 1:
            sender.oversize = lines.oversize
        return status == STATUS_OK and reason == 0


cdef ssize_t read_one(Sender sender, double now) noexcept nogil:
    sender.last_read = now
    return sender.lines.read_chunk(sender.descriptor)


cdef void commit_and_tell(LogWriter writer, AnswerQueue queue) noexcept nogil:
    # If the sync fails nobody is told; who commits next finds out why.
    cdef uint64_t durable_lsn
    cdef int status
    pthread_mutex_lock(&writer.mutex)
    status = writer.commit_through(writer.last_framed_serial())
    durable_lsn = writer.durable
    pthread_mutex_unlock(&writer.mutex)
    if status == STATUS_OK:
        queue.tell_all(durable_lsn)
