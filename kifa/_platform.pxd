# Threads, clocks and system calls, as the compiled modules use them without the interpreter's lock.

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_trylock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_cond_signal(pthread_cond_t *)
    int pthread_cond_broadcast(pthread_cond_t *)
    int pthread_cond_destroy(pthread_cond_t *)
    int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *)

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *buffer, size_t size, long offset)
    ssize_t pwrite(int fd, const void *buffer, size_t size, long offset)
    ssize_t write(int fd, const void *buffer, size_t size)
    int fdatasync(int fd)

cdef extern from *:
    """
    #include <pthread.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <time.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    #endif

    /* Conditions wait on the monotonic clock: wall clocks of devices without a battery jump. */
    static inline int kifa_cond_init(pthread_cond_t *cond) {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        return pthread_cond_init(cond, &attributes);
    }
    static inline void kifa_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, double deadline) {
        struct timespec when;
        when.tv_sec = (time_t)deadline;
        when.tv_nsec = (long)((deadline - (double)when.tv_sec) * 1e9);
        pthread_cond_timedwait(cond, mutex, &when);
    }
    static inline double kifa_monotonic(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    static inline long long kifa_clock_ms(clockid_t clock) {
        struct timespec now;
        clock_gettime(clock, &now);
        return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    }
    static inline long long kifa_wall_ms(void) { return kifa_clock_ms(CLOCK_REALTIME); }
    /* Goes on while the device sleeps, unlike CLOCK_MONOTONIC: sleeping is no clock step. */
    static inline long long kifa_boot_ms(void) { return kifa_clock_ms(CLOCK_BOOTTIME); }

    /* Gives freed memory back to the system, where the C library keeps some. */
    static inline void kifa_return_free_memory(void) {
    #ifdef __GLIBC__
        malloc_trim(0);
    #endif
    }

    /* A buffer of its own pages, aligned so that large ones can take their place; not touched yet. */
    #define KIFA_LARGE_PAGE ((size_t)2 << 20)
    static inline void *kifa_map_buffer(size_t size) {
        char *pages = mmap(NULL, size + KIFA_LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *aligned;
        if (pages == MAP_FAILED) return NULL;
        aligned = (char *)(((uintptr_t)pages + KIFA_LARGE_PAGE - 1) & ~(uintptr_t)(KIFA_LARGE_PAGE - 1));
        if (aligned > pages) munmap(pages, (size_t)(aligned - pages));
        munmap(aligned + size, (size_t)(pages + KIFA_LARGE_PAGE - aligned));
        return aligned;
    }
    static inline void kifa_unmap_buffer(void *buffer, size_t size) {
        if (buffer != NULL) munmap(buffer, size);
    }
    /* Hints; where the system has no large pages, or none left, nothing changes. */
    static inline void kifa_use_large_pages(void *buffer, size_t size) {
    #ifdef __linux__
        #ifndef MADV_COLLAPSE
        #define MADV_COLLAPSE 25
        #endif
        if (madvise(buffer, size, MADV_HUGEPAGE) == 0) madvise(buffer, size, MADV_COLLAPSE);
    #endif
    }
    static inline void kifa_give_back_pages(void *buffer, size_t size) {
    #ifdef __linux__
        madvise(buffer, size, MADV_NOHUGEPAGE);
        madvise(buffer, size, MADV_DONTNEED);
    #endif
    }
    """
    int cond_init "kifa_cond_init"(pthread_cond_t *) nogil
    void cond_wait_until "kifa_cond_wait_until"(pthread_cond_t *, pthread_mutex_t *, double) noexcept nogil
    double monotonic "kifa_monotonic"() noexcept nogil
    long long wall_ms "kifa_wall_ms"() noexcept nogil
    long long boot_ms "kifa_boot_ms"() noexcept nogil
    size_t LARGE_PAGE_SIZE "KIFA_LARGE_PAGE"
    void *map_buffer "kifa_map_buffer"(size_t) noexcept nogil
    void unmap_buffer "kifa_unmap_buffer"(void *, size_t) noexcept nogil
    void use_large_pages "kifa_use_large_pages"(void *, size_t) noexcept nogil
    void give_back_pages "kifa_give_back_pages"(void *, size_t) noexcept nogil
    void return_free_memory "kifa_return_free_memory"() noexcept nogil
