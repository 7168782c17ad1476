"""What senders are to be told, and when: in order, each line once, and never before its sync has returned success.

A source notes what its lines got, LSNs or a refusal; after a sync `AnswerQueue.answer` gives what is ready. Where
`Answers.send_to` named a socket or a pipe that happens here, without the interpreter's lock; what needs a decision, a
refusal or one that does not take all, is left to Python.

An acknowledgement is made from one thing only, the durable LSN that `answer` is given, which grows when a sync has
returned success and not otherwise: whatever order the steps around it are in, none can come early, and none comes after a
failed sync for what that sync should have covered.

**Who is expected back.** A sender with one line in flight sends the next one as soon as the last was acknowledged. So
one who was told everything counts as expected until its next line; `kifa._senders` gives the expected a moment to come
before a group closes (docs/decisions/0002-gathering-a-group.md). One who came late is not expected the next time, and
each further time that it is late it is not expected for twice as many: those who send now and then cost nothing.
"""

cimport cython
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from kifa._platform cimport monotonic, write

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t send(int descriptor, const void *data, size_t size, int flags)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLOUT
    struct pollfd:
        int fd
        short events
    int poll(pollfd *descriptors, unsigned long count, int timeout_ms)

cdef enum:
    MAX_ANSWER_SIZE = 25    # "ACK ", at most 20 digits, line end
    SEND_SIZE = 16 * 1024
    # A pipe that is writable takes this much without blocking; its flags, shared with others, stay as they are.
    PIPE_SEND_SIZE = 4096
    MAX_LATENESS = 63


cdef uint8_t *format_acks(uint64_t lsn, uint64_t count, uint8_t *out) noexcept nogil:
    # Writes ``ACK <lsn>`` lines and returns their end.
    cdef uint64_t digits
    cdef uint8_t number[20]
    cdef int length
    for lsn in range(lsn, lsn + count):
        memcpy(out, b"ACK ", 4)
        out += 4
        length = 0
        digits = lsn
        while True:
            number[length] = 48 + <uint8_t>(digits % 10)
            length += 1
            digits = digits // 10
            if digits == 0:
                break
        while length:
            length -= 1
            out[0] = number[length]
            out += 1
        out[0] = 10
        out += 1
    return out


# Its queue is there until the very end, also where the collector breaks a cycle.
@cython.no_gc_clear
cdef class Answers:
    """What one sender is to be told, in the order of its lines."""

    def __init__(self, AnswerQueue queue not None, send):
        """Begin without any.

        Args:
            send: called with the bytes of what is ready, where no socket was named by `send_to`.
        """
        self.queue = queue
        self.send = send
        self.descriptor = -1
        self.refusals = deque()

    def __dealloc__(self):
        if self.queue is not None:
            self.queue.keep(self)
        free(self.pending)
        free(self.unsent)

    def __bool__(self):
        return self.start != self.end or self.unsent_size != 0

    def stored(self, uint64_t first_lsn, uint64_t count):
        """``count`` lines got LSNs from ``first_lsn`` on; they are acknowledged when they are durable."""
        assert first_lsn and count
        if not self.note(first_lsn, count):
            raise MemoryError()

    def refused(self, str reason not None):
        """A line was not stored."""
        if not self.note(0, 0):
            raise MemoryError()
        self.refusals.append(f"ERR {reason}\n".encode())

    def send_to(self, int descriptor, bint is_socket=True):
        """Send to this socket, or whatever it is, from now on, not through Python; -1 ends it."""
        assert descriptor < 0 or self.unsent_size == 0, "what is left must be sent first"
        self.descriptor = descriptor
        self.is_socket = is_socket
        if descriptor < 0:
            self.queue.came_back(self)

    def take(self, uint64_t durable_lsn):
        """Return the answers that can be given now."""
        cdef uint64_t ready
        cdef uint8_t *out
        cdef list parts = [self.take_unsent()]
        while self.start != self.end:
            if self.pending[self.start].count == 0:
                self.start += 1
                parts.append(self.refusals.popleft())
                continue
            ready = ready_count(&self.pending[self.start], durable_lsn)
            if ready == 0:
                break
            part = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(ready * MAX_ANSWER_SIZE))
            out = <uint8_t *>PyBytes_AS_STRING(part)
            parts.append(part[:self.format_ready(durable_lsn, out, ready * MAX_ANSWER_SIZE)])
        return b"".join(parts)

    cdef bytes take_unsent(self):
        if self.is_out_of_memory:
            raise MemoryError()
        cdef bytes unsent = (<char *>self.unsent)[:self.unsent_size] if self.unsent_size else b""
        free(self.unsent)
        self.unsent = NULL
        self.unsent_size = 0
        return unsent

    cdef bint note(self, uint64_t first_lsn, uint64_t count) noexcept nogil:
        # False without memory.
        cdef Pending *last
        cdef void *moved
        self.queue.came_back(self)
        if not self.queue.add(self):
            return False
        if self.start != self.end:
            last = &self.pending[self.end - 1]
            if count and last.count and last.first_lsn + last.count == first_lsn:
                last.count += count
                return True
        else:
            self.start = self.end = 0
        if self.end == self.capacity:
            if self.start * 2 > self.capacity:
                memmove(self.pending, self.pending + self.start, (self.end - self.start) * sizeof(Pending))
                self.end -= self.start
                self.start = 0
            else:
                moved = realloc(self.pending, (self.capacity * 2 + 4) * sizeof(Pending))
                if moved == NULL:
                    return False
                self.pending = <Pending *>moved
                self.capacity = self.capacity * 2 + 4
        self.pending[self.end].first_lsn = first_lsn
        self.pending[self.end].count = count
        self.end += 1
        return True

    cdef size_t format_ready(self, uint64_t durable_lsn, uint8_t *out, size_t size) noexcept nogil:
        # Takes what is ready, up to a refusal or to `size`, and returns how much it wrote.
        cdef uint8_t *position = out
        cdef Pending *head
        cdef uint64_t count
        while self.start != self.end:
            head = &self.pending[self.start]
            count = min(
                ready_count(head, durable_lsn), <uint64_t>((size - <size_t>(position - out)) // MAX_ANSWER_SIZE)
            )
            if count == 0:
                break
            position = format_acks(head.first_lsn, count, position)
            head.first_lsn += count
            head.count -= count
            if head.count == 0:
                self.start += 1
        return <size_t>(position - out)

    cdef bint send_ready(self, uint64_t durable_lsn) noexcept nogil:
        # Whether that is all for now; else Python has to go on.
        cdef uint8_t buffer[SEND_SIZE]
        cdef size_t size
        cdef ssize_t sent
        while self.start != self.end:
            size = self.format_ready(durable_lsn, buffer, SEND_SIZE if self.is_socket else PIPE_SEND_SIZE)
            if size == 0:
                return self.pending[self.start].count != 0
            sent = max(self.give(buffer, size), <ssize_t>0)
            if <size_t>sent < size:
                # Whatever is wrong, Python finds out when it sends this.
                self.unsent = <uint8_t *>malloc(size - <size_t>sent)
                self.is_out_of_memory = self.unsent == NULL
                if self.unsent != NULL:
                    self.unsent_size = size - <size_t>sent
                    memcpy(self.unsent, buffer + sent, self.unsent_size)
                return False
        return True

    cdef ssize_t give(self, const uint8_t *data, size_t size) noexcept nogil:
        cdef pollfd output
        if self.is_socket:
            return send(self.descriptor, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        output.fd = self.descriptor
        output.events = POLLOUT
        return write(self.descriptor, data, size) if poll(&output, 1, 0) == 1 else -1


cdef inline uint64_t ready_count(const Pending *pending, uint64_t durable_lsn) noexcept nogil:
    return min(pending.count, durable_lsn - pending.first_lsn + 1) if pending.first_lsn <= durable_lsn else 0


cdef class AnswerQueue:
    """The answers of all senders that wait for one."""

    def __cinit__(self):
        self.round = 1

    def __dealloc__(self):
        free(self.due)

    @property
    def expects_senders(self) -> bool:
        """Whether somebody was told everything and is expected back any moment."""
        return self.expected > 0

    def answer(self, uint64_t durable_lsn):
        """Give all answers that LSN ``durable_lsn`` allows; it must be covered by a sync that returned success.

        Returns:
            Those for which Python has to go on: give what `Answers.take` returns to their `Answers.send`.
        """
        with nogil:
            self.tell_all(durable_lsn)
        return [
            <Answers>self.due[index] for index in range(self.due_count) if (<Answers>self.due[index]).needs_send
        ]

    cdef void tell_all(self, uint64_t durable_lsn) noexcept nogil:
        cdef size_t index
        cdef size_t left = 0
        self.round += 1
        for index in range(self.due_count):
            if self.due[index] != NULL and self.tell(<Answers>self.due[index], durable_lsn):
                self.due[left] = self.due[index]
                (<Answers>self.due[left]).due_index = left
                left += 1
        self.due_count = left
        if self.expected:
            self.answered_at = monotonic()

    def forget(self, Answers answers not None):
        """The sender has gone."""
        self.keep(answers)
        answers.start = answers.end = 0
        answers.refusals.clear()
        answers.take_unsent()

    cdef void keep(self, Answers answers) noexcept nogil:
        # Has nothing to do with it any more.
        if answers.is_due:
            self.due[answers.due_index] = NULL
            answers.is_due = False
        self.came_back(answers)

    cdef bint add(self, Answers answers) noexcept nogil:
        cdef void *moved
        if answers.is_due:
            return True
        if self.due_count == self.due_capacity:
            moved = realloc(self.due, (self.due_capacity * 2 + 8) * sizeof(void *))
            if moved == NULL:
                return False
            self.due = <void **>moved
            self.due_capacity = self.due_capacity * 2 + 8
        self.due[self.due_count] = <void *>answers
        answers.due_index = self.due_count
        answers.is_due = True
        self.due_count += 1
        return True

    cdef bint tell(self, Answers answers, uint64_t durable_lsn) noexcept nogil:
        # Whether it stays in the queue.
        if answers.descriptor < 0 or answers.unsent_size:
            answers.needs_send = answers.start != answers.end or answers.unsent_size
        else:
            answers.needs_send = not answers.send_ready(durable_lsn)
        if answers.needs_send or answers.start != answers.end:
            return True
        answers.is_due = False
        if answers.descriptor >= 0:
            self.expect(answers)
        return False

    cdef void expect(self, Answers answers) noexcept nogil:
        if answers.doubts:
            answers.doubts -= 1
        else:
            answers.expected_in = self.round
            self.expected += 1

    cdef void came_back(self, Answers answers) noexcept nogil:
        if answers.expected_in == 0:
            return
        if answers.expected_in > self.given_up:
            self.expected -= 1
            answers.lateness = 0
        else:
            answers.lateness = min(answers.lateness * 2 + 1, <uint32_t>MAX_LATENESS)
            answers.doubts = answers.lateness
        answers.expected_in = 0

    cdef void give_up(self) noexcept nogil:
        # Nobody waits any longer for those who were expected and did not come.
        self.given_up = self.round
        self.expected = 0
