/* CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected 0x82F63B78; RFC 3720 appendix B.4), one byte-stream function:
 *
 *     uint32_t kifa_crc32c(uint32_t seed, const uint8_t *data, size_t size)
 *
 * crc(b, crc(a, 0)) == crc(a + b, 0). The processor's instruction is used where there is one (x86 SSE 4.2, ARMv8 CRC),
 * three streams at a time for long input, because the instruction has a latency of 3 cycles and a throughput of 1;
 * otherwise a table of 8 x 256 words ("slicing by 8", Kounavis and Berry, ISCC 2005). */
#ifndef KIFA_CRC32C_H
#define KIFA_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KIFA_CRC_POLYNOMIAL 0x82F63B78u
#define KIFA_CRC_LANE 1024u      /* bytes of each of the three streams */
#define KIFA_CRC_SHORT_LANE 64u /* the same for input of the size of one entry */

typedef uint32_t (*kifa_crc32c_function)(uint32_t, const uint8_t *, size_t);

static uint32_t kifa_crc_table[8][256];
/* Append a lane of zero bytes to a CRC state. */
static uint32_t kifa_crc_shift[4][256];
static uint32_t kifa_crc_short_shift[4][256];

static inline uint64_t kifa_load64(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static uint32_t kifa_crc32c_table(uint32_t seed, const uint8_t *p, size_t n) {
    uint32_t crc = ~seed;
    while (n >= 8) {
        uint64_t word = kifa_load64(p) ^ crc;
        crc = kifa_crc_table[7][word & 255] ^ kifa_crc_table[6][(word >> 8) & 255] ^
              kifa_crc_table[5][(word >> 16) & 255] ^ kifa_crc_table[4][(word >> 24) & 255] ^
              kifa_crc_table[3][(word >> 32) & 255] ^ kifa_crc_table[2][(word >> 40) & 255] ^
              kifa_crc_table[1][(word >> 48) & 255] ^ kifa_crc_table[0][word >> 56];
        p += 8;
        n -= 8;
    }
    while (n--) crc = kifa_crc_table[0][(crc ^ *p++) & 255] ^ (crc >> 8);
    return ~crc;
}

static inline uint32_t kifa_crc_skip(uint32_t (*shift)[256], uint32_t crc) {
    return shift[0][crc & 255] ^ shift[1][(crc >> 8) & 255] ^ shift[2][(crc >> 16) & 255] ^ shift[3][crc >> 24];
}

#if defined(__x86_64__)
#define KIFA_CRC_TARGET __attribute__((target("sse4.2")))
#define KIFA_CRC_8(crc, word) ((uint32_t)__builtin_ia32_crc32di((crc), (word)))
#define KIFA_CRC_1(crc, byte) __builtin_ia32_crc32qi((crc), (byte))
#define KIFA_CRC_AVAILABLE() __builtin_cpu_supports("sse4.2")
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#define KIFA_CRC_TARGET __attribute__((target("+crc")))
#define KIFA_CRC_8(crc, word) __builtin_aarch64_crc32cx((crc), (word))
#define KIFA_CRC_1(crc, byte) __builtin_aarch64_crc32cb((crc), (byte))
#define KIFA_CRC_AVAILABLE() ((getauxval(AT_HWCAP) >> 7) & 1) /* HWCAP_CRC32 */
#endif

#ifdef KIFA_CRC_TARGET
KIFA_CRC_TARGET static inline uint32_t kifa_crc_three(
    uint32_t crc, const uint8_t *p, size_t lane, uint32_t (*shift)[256]
) {
    uint32_t second = 0, third = 0;
    for (size_t i = 0; i < lane; i += 8) {
        crc = KIFA_CRC_8(crc, kifa_load64(p + i));
        second = KIFA_CRC_8(second, kifa_load64(p + lane + i));
        third = KIFA_CRC_8(third, kifa_load64(p + 2 * lane + i));
    }
    crc = kifa_crc_skip(shift, crc) ^ second;
    return kifa_crc_skip(shift, crc) ^ third;
}

KIFA_CRC_TARGET static uint32_t kifa_crc32c_hardware(uint32_t seed, const uint8_t *p, size_t n) {
    uint32_t crc = ~seed;
    for (; n >= 3 * KIFA_CRC_LANE; p += 3 * KIFA_CRC_LANE, n -= 3 * KIFA_CRC_LANE)
        crc = kifa_crc_three(crc, p, KIFA_CRC_LANE, kifa_crc_shift);
    for (; n >= 3 * KIFA_CRC_SHORT_LANE; p += 3 * KIFA_CRC_SHORT_LANE, n -= 3 * KIFA_CRC_SHORT_LANE)
        crc = kifa_crc_three(crc, p, KIFA_CRC_SHORT_LANE, kifa_crc_short_shift);
    while (n >= 8) {
        crc = KIFA_CRC_8(crc, kifa_load64(p));
        p += 8;
        n -= 8;
    }
    while (n--) crc = KIFA_CRC_1(crc, *p++);
    return ~crc;
}
#endif

static uint32_t kifa_crc32c_first(uint32_t seed, const uint8_t *p, size_t n);
static kifa_crc32c_function kifa_crc32c = kifa_crc32c_first;

/* Appending zeros is linear, so 32 states of one bit give all others. */
static void kifa_crc_fill_shift(uint32_t (*shift)[256], uint32_t lane) {
    for (int byte = 0; byte < 4; byte++)
        for (uint32_t i = 1; i < 256; i++) {
            uint32_t crc = i << (8 * byte);
            if (i & (i - 1)) {
                shift[byte][i] = shift[byte][i & (i - 1)] ^ shift[byte][i & -i];
                continue;
            }
            for (uint32_t n = 0; n < lane; n++) crc = kifa_crc_table[0][crc & 255] ^ (crc >> 8);
            shift[byte][i] = crc;
        }
}

static void kifa_crc32c_prepare(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? KIFA_CRC_POLYNOMIAL : 0);
        kifa_crc_table[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++) {
            uint32_t crc = kifa_crc_table[k - 1][i];
            kifa_crc_table[k][i] = kifa_crc_table[0][crc & 255] ^ (crc >> 8);
        }
    kifa_crc_fill_shift(kifa_crc_shift, KIFA_CRC_LANE);
    kifa_crc_fill_shift(kifa_crc_short_shift, KIFA_CRC_SHORT_LANE);
}

/* Fills the tables on first use and replaces itself. Idempotent, so two threads that race do the same work twice;
 * every extension calls it once at import, under the import lock. */
static uint32_t kifa_crc32c_first(uint32_t seed, const uint8_t *p, size_t n) {
    kifa_crc32c_prepare();
#ifdef KIFA_CRC_TARGET
    kifa_crc32c = KIFA_CRC_AVAILABLE() ? kifa_crc32c_hardware : kifa_crc32c_table;
#else
    kifa_crc32c = kifa_crc32c_table;
#endif
    return kifa_crc32c(seed, p, n);
}

#endif
