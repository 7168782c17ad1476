"""The memory of a process that waits for most of its life."""

from kifa._platform cimport return_free_memory

cdef extern from *:
    """
    #ifdef __linux__
    #include <link.h>
    #include <sys/mman.h>
    #include <unistd.h>

    /* Code is never written to, so whatever is needed of it again comes back from its file. */
    static int kifa_unmap_code(struct dl_phdr_info *info, size_t size, void *unused) {
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        (void)size; (void)unused;
        if (info->dlpi_name == NULL || info->dlpi_name[0] != '/') return 0;
        for (int i = 0; i < info->dlpi_phnum; i++) {
            if (info->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
            const ElfW(Dyn) *entry = (const ElfW(Dyn) *)((uintptr_t)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
            for (; entry->d_tag != DT_NULL; entry++) {  /* code that the loader has changed is only here */
                if (entry->d_tag == DT_TEXTREL) return 0;
                if (entry->d_tag == DT_FLAGS && (entry->d_un.d_val & DF_TEXTREL)) return 0;
            }
        }
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
            if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) && !(segment->p_flags & PF_W)) {
                uintptr_t start = ((uintptr_t)info->dlpi_addr + segment->p_vaddr) & ~(page - 1);
                uintptr_t end = (uintptr_t)info->dlpi_addr + segment->p_vaddr + segment->p_filesz;
                madvise((void *)start, end - start, MADV_DONTNEED);
            }
        }
        return 0;
    }
    static void kifa_forget_start(void) { dl_iterate_phdr(kifa_unmap_code, NULL); }
    #else
    static void kifa_forget_start(void) { }
    #endif
    """
    void unmap_code "kifa_forget_start"() nogil


def forget_start():
    """Give back what only starting needed: free memory, and the pages of libraries' code until they are used again."""
    with nogil:
        unmap_code()
        return_free_memory()
