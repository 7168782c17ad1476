"""Requests to callgrind, the tool of valgrind that counts instructions. Outside valgrind they do nothing.

The sequence of instructions that valgrind takes for a request is part of its interface, and harmless elsewhere; the
numbers are those of its header callgrind.h, which need not be installed to build this.
"""

cdef extern from *:
    """
    #include <stdint.h>
    enum { CALLGRIND_ZERO = 0x43540001, CALLGRIND_DUMP_AT = 0x43540003, CALLGRIND_START = 0x43540004,
           CALLGRIND_STOP = 0x43540005 };

    static uint64_t callgrind_request(uint64_t request, const char *text) {
        volatile uint64_t arguments[6] = {request, (uint64_t)(uintptr_t)text, 0, 0, 0, 0};
        volatile uint64_t result = 0;
    #if defined(__x86_64__)
        __asm__ volatile("rolq $3,  %%rdi ; rolq $13, %%rdi\\n\\t"
                         "rolq $61, %%rdi ; rolq $51, %%rdi\\n\\t"
                         "xchgq %%rbx,%%rbx"
                         : "=d"(result) : "a"(arguments), "0"(result) : "cc", "memory");
    #else
        (void)arguments;
    #endif
        return result;
    }
    """
    enum:
        CALLGRIND_ZERO
        CALLGRIND_DUMP_AT
        CALLGRIND_START
        CALLGRIND_STOP
    unsigned long callgrind_request(unsigned long request, const char *text) nogil


def start():
    """Begin to count, from zero."""
    callgrind_request(CALLGRIND_START, NULL)
    callgrind_request(CALLGRIND_ZERO, NULL)


def stop(name: bytes):
    """Have what was counted written under ``name``, and count no more."""
    callgrind_request(CALLGRIND_DUMP_AT, name)
    callgrind_request(CALLGRIND_STOP, NULL)
