/* Choice of instruction set at run time. */
#include "semillie_scan.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define DECLARE(suffix)                                                            \
    int semillie_forward_##suffix(const struct semillie_scan *p, int64_t item);    \
    int semillie_backward_##suffix(const struct semillie_scan *p, int64_t item);   \
    int64_t semillie_lanes_##suffix(void);

DECLARE(base)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
#endif

int64_t semillie_scan_abi(void) { return SEMILLIE_SCAN_ABI; }

int64_t semillie_scan_tile(void) { return SEMILLIE_SCAN_TILE; }

int64_t semillie_scan_isa(void) {
#if defined(__x86_64__)
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return SEMILLIE_BASE;
    int fma = (c & bit_FMA) && (c & bit_AVX);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return SEMILLIE_BASE;
    /* Registers that the operating system saves: bits 1-2 for 256-bit vectors, 5-7 in addition for 512-bit ones. */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!fma || !(b & bit_AVX2) || (low & 0x06) != 0x06) return SEMILLIE_BASE;
    const unsigned wanted = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL | bit_AVX512CD;
    return (b & wanted) == wanted && (low & 0xe6) == 0xe6 ? SEMILLIE_AVX512 : SEMILLIE_AVX2;
#else
    return SEMILLIE_BASE;
#endif
}

void semillie_scan_use_large_pages(void *start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    /* Whole large pages only: what lies beside the buffer is not ours to advise about. */
    const uintptr_t size = 1 << 21, begin = ((uintptr_t)start + size - 1) & ~(size - 1);
    const uintptr_t end = ((uintptr_t)start + (uintptr_t)bytes) & ~(size - 1);
    /* Where the system has none to give, ordinary pages serve. */
    if (begin < end) (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)start;
    (void)bytes;
#endif
}

static int64_t resolve(int64_t isa) { return isa == SEMILLIE_AUTO ? semillie_scan_isa() : isa; }

#if defined(__x86_64__)
#define CALL(name, isa, ...)                                                \
    switch (resolve(isa)) {                                                 \
        case SEMILLIE_AVX512: return semillie_##name##_avx512(__VA_ARGS__); \
        case SEMILLIE_AVX2: return semillie_##name##_avx2(__VA_ARGS__);     \
        default: return semillie_##name##_base(__VA_ARGS__);                \
    }
#else
#define CALL(name, isa, ...) \
    (void)resolve(isa);      \
    return semillie_##name##_base(__VA_ARGS__);
#endif

int64_t semillie_scan_lanes(int64_t isa) { CALL(lanes, isa) }

int semillie_scan_forward(const struct semillie_scan *p, int64_t item) { CALL(forward, p->isa, p, item) }

int semillie_scan_backward(const struct semillie_scan *p, int64_t item) { CALL(backward, p->isa, p, item) }
