/* Quoting text for JSON and CSV, checking its UTF-8 (RFC 3629) on the way; base64, hexadecimal, and calendar dates.
 *
 * Text is looked at 16 bytes at a time. What needs only a character before it (a quote, a backslash) is most of what
 * there is in transaction lines, one every few bytes: where the processor can shuffle bytes, 8 of them are spread out
 * at once by a table. Everything else is handled one character at a time.
 */
#ifndef KIFA_ESCAPE_H
#define KIFA_ESCAPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KIFA_STRIDE 16
#define KIFA_INVALID ((uint8_t *)0)

static const char kifa_hex_digits[] = "0123456789abcdef";

/* Bits for 16 bytes: `marked` are those that get a character before them, `hard` those that need more care. */
typedef struct {
    uint32_t marked, hard;
} kifa_special;

#if defined(__x86_64__)
#include <immintrin.h>
static inline kifa_special kifa_find_special(const uint8_t *in, int json) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)in);
    __m128i marked = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    __m128i hard = bytes; /* CSV: not ASCII, that is, the sign bit */
    if (json) {
        marked = _mm_or_si128(marked, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\')));
        hard = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20)); /* signed, so not ASCII counts as well */
    }
    return (kifa_special){(uint32_t)_mm_movemask_epi8(marked), (uint32_t)_mm_movemask_epi8(hard)};
}
#else
static inline kifa_special kifa_find_special(const uint8_t *in, int json) {
    kifa_special found = {0, 0};
    for (int i = 0; i < KIFA_STRIDE; i++) {
        uint8_t byte = in[i];
        found.marked |= (uint32_t)((byte == '"') | (json & (byte == '\\'))) << i;
        found.hard |= (uint32_t)((byte >= 0x80) | (json & (byte < 0x20))) << i;
    }
    return found;
}
#endif

#if defined(__x86_64__)
#define KIFA_SHUFFLE __attribute__((target("ssse3")))
#define KIFA_SHUFFLE_AVAILABLE() __builtin_cpu_supports("ssse3")
static uint8_t kifa_spread[256][16]; /* for each mask of 8 bytes: their places, with room (8) before the marked ones */
static uint8_t kifa_spread_size[256];

static void kifa_prepare_spread(void) {
    for (int mask = 0; mask < 256; mask++) {
        int size = 0;
        for (int i = 0; i < 8; i++) {
            if (mask >> i & 1) kifa_spread[mask][size++] = 8;
            kifa_spread[mask][size++] = (uint8_t)i;
        }
        kifa_spread_size[mask] = (uint8_t)size;
    }
}

/* Write the 8 low bytes of `bytes` with a character from its high half before each that is in `mask`. */
KIFA_SHUFFLE static inline uint8_t *kifa_spread_8(__m128i bytes, uint32_t mask, uint8_t *out) {
    __m128i places = _mm_loadu_si128((const __m128i *)kifa_spread[mask]);
    _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(bytes, places));
    return out + kifa_spread_size[mask];
}

KIFA_SHUFFLE static inline uint8_t *kifa_spread_16(const uint8_t *in, uint32_t mask, int json, uint8_t *out) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)in), mark = _mm_set1_epi8(json ? '\\' : '"');
    out = kifa_spread_8(_mm_unpacklo_epi64(bytes, mark), mask & 255, out);
    return kifa_spread_8(_mm_unpackhi_epi64(bytes, mark), mask >> 8, out);
}
#endif

/* The length of the valid UTF-8 sequence of 2 to 4 bytes at `in`, or 0. */
static size_t kifa_utf8_sequence(const uint8_t *in, const uint8_t *end) {
    size_t left = (size_t)(end - in);
    uint8_t a = in[0];
    if (a < 0xC2 || a > 0xF4 || left < 2) return 0;
    uint8_t low = 0x80, high = 0xBF; /* of the second byte: no overlong forms, no surrogates, nothing above U+10FFFF */
    if (a == 0xE0) low = 0xA0;
    if (a == 0xED) high = 0x9F;
    if (a == 0xF0) low = 0x90;
    if (a == 0xF4) high = 0x8F;
    if (in[1] < low || in[1] > high) return 0;
    if (a < 0xE0) return 2;
    if (left < 3 || (in[2] & 0xC0) != 0x80) return 0;
    if (a < 0xF0) return 3;
    return left >= 4 && (in[3] & 0xC0) == 0x80 ? 4 : 0;
}

static uint8_t *kifa_escape_json_byte(uint8_t byte, uint8_t *out) {
    char letter = 0;
    switch (byte) {
        case '"': case '\\': letter = (char)byte; break;
        case '\n': letter = 'n'; break;
        case '\r': letter = 'r'; break;
        case '\t': letter = 't'; break;
        case '\b': letter = 'b'; break;
        case '\f': letter = 'f'; break;
    }
    *out++ = '\\';
    if (letter) {
        *out++ = (uint8_t)letter;
        return out;
    }
    memcpy(out, "u00", 3);
    out[3] = (uint8_t)kifa_hex_digits[byte >> 4];
    out[4] = (uint8_t)kifa_hex_digits[byte & 15];
    return out + 5;
}

/* Quote the one character at `*in`, which is marked or hard. */
static uint8_t *kifa_quote_one(const uint8_t **in, const uint8_t *end, uint8_t *out, int json) {
    uint8_t byte = **in;
    size_t length = 1;
    if (byte >= 0x80) {
        length = kifa_utf8_sequence(*in, end);
        if (length == 0) return KIFA_INVALID;
        memcpy(out, *in, length);
        out += length;
    } else if (json) {
        out = kifa_escape_json_byte(byte, out);
    } else {
        out[0] = out[1] = '"';
        out += 2;
    }
    *in += length;
    return out;
}

/* Quote `in` without the quotes around it. Writes at most 6 * size + 2 * KIFA_STRIDE bytes (a stride may be written
 * beyond the end). Returns the end of the output, or KIFA_INVALID where `in` is not UTF-8. */
static uint8_t *kifa_quote(const uint8_t *in, size_t size, uint8_t *out, int json) {
    const uint8_t *end = in + size;
    uint8_t last[KIFA_STRIDE];
    while (in < end && out != KIFA_INVALID) {
        const uint8_t *from = in;
        size_t take = KIFA_STRIDE;
        if ((size_t)(end - in) < KIFA_STRIDE) {
            take = (size_t)(end - in);
            memset(last, 'x', KIFA_STRIDE);
            from = memcpy(last, in, take);
        }
        kifa_special special = kifa_find_special(from, json);
        uint32_t mask = special.marked | special.hard;
        size_t plain = mask ? (size_t)__builtin_ctz(mask) : take;
        memcpy(out, from, KIFA_STRIDE);
        in += plain;
        out += plain;
        if (mask) out = kifa_quote_one(&in, end, out, json);
    }
    return out;
}

#ifdef KIFA_SHUFFLE
/* The same; whole strides of ASCII text without control characters are spread out at once. */
KIFA_SHUFFLE static inline uint8_t *kifa_quote_spread(const uint8_t *in, size_t size, uint8_t *out, int json) {
    const uint8_t *end = in + size;
    while ((size_t)(end - in) >= KIFA_STRIDE) {
        kifa_special special = kifa_find_special(in, json);
        if (special.hard == 0) {
            out = kifa_spread_16(in, special.marked, json, out);
            in += KIFA_STRIDE;
            continue;
        }
        const uint8_t *hard = in + __builtin_ctz(special.hard);
        out = kifa_quote(in, (size_t)(hard - in), out, json);
        in = hard;
        out = kifa_quote_one(&in, end, out, json);
        if (out == KIFA_INVALID) return out;
    }
    return kifa_quote(in, (size_t)(end - in), out, json);
}
KIFA_SHUFFLE static uint8_t *kifa_spread_json(const uint8_t *in, size_t size, uint8_t *out) {
    return kifa_quote_spread(in, size, out, 1);
}
KIFA_SHUFFLE static uint8_t *kifa_spread_csv(const uint8_t *in, size_t size, uint8_t *out) {
    return kifa_quote_spread(in, size, out, 0);
}
#endif

static uint8_t *kifa_plain_json(const uint8_t *in, size_t size, uint8_t *out) { return kifa_quote(in, size, out, 1); }
static uint8_t *kifa_plain_csv(const uint8_t *in, size_t size, uint8_t *out) { return kifa_quote(in, size, out, 0); }

typedef uint8_t *(*kifa_quote_function)(const uint8_t *, size_t, uint8_t *);
static kifa_quote_function kifa_quote_json = kifa_plain_json, kifa_quote_csv = kifa_plain_csv;

/* Choose by the processor. To be called once, on import. */
static void kifa_prepare_quoting(void) {
#ifdef KIFA_SHUFFLE
    if (!KIFA_SHUFFLE_AVAILABLE()) return;
    kifa_prepare_spread();
    kifa_quote_json = kifa_spread_json;
    kifa_quote_csv = kifa_spread_csv;
#endif
}

static uint8_t *kifa_base64(const uint8_t *in, size_t size, uint8_t *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (; size; in += 3) {
        uint32_t word = (uint32_t)in[0] << 16 | (size > 1 ? (uint32_t)in[1] << 8 : 0) | (size > 2 ? in[2] : 0);
        *out++ = (uint8_t)digits[word >> 18];
        *out++ = (uint8_t)digits[word >> 12 & 63];
        *out++ = size > 1 ? (uint8_t)digits[word >> 6 & 63] : '=';
        *out++ = size > 2 ? (uint8_t)digits[word & 63] : '=';
        size -= size < 3 ? size : 3;
    }
    return out;
}

static uint8_t *kifa_hex(const uint8_t *in, size_t size, uint8_t *out) {
    for (size_t i = 0; i < size; i++) {
        *out++ = (uint8_t)kifa_hex_digits[in[i] >> 4];
        *out++ = (uint8_t)kifa_hex_digits[in[i] & 15];
    }
    return out;
}

static uint8_t *kifa_hex_u64(uint64_t value, uint8_t *out) {
    for (int shift = 60; shift >= 0; shift -= 4) *out++ = (uint8_t)kifa_hex_digits[value >> shift & 15];
    return out;
}

/* Decimal, at least `width` digits. */
static uint8_t *kifa_decimal(uint64_t value, int width, uint8_t *out) {
    uint8_t digits[20];
    int count = 0;
    do {
        digits[count++] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value);
    while (count < width) digits[count++] = '0';
    while (count) *out++ = digits[--count];
    return out;
}

/* `YYYY-MM-DD HH:MM:SS UTC` of Unix seconds; years beyond 9999 take more digits. The calendar repeats every 400 years
 * of 146,097 days; years are counted from 1 March, so that a leap day is the last of its year. */
static uint8_t *kifa_calendar(uint64_t seconds, uint8_t *out) {
    uint64_t second_of_day = seconds % 86400;
    uint64_t day = seconds / 86400 + 719468; /* since 1 March of year 0 */
    uint64_t era = day / 146097, day_of_era = day % 146097;
    uint64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t shifted_month = (5 * day_of_year + 2) / 153;
    uint64_t day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    uint64_t month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    out = kifa_decimal(era * 400 + year_of_era + (month <= 2), 4, out);
    *out++ = '-';
    out = kifa_decimal(month, 2, out);
    *out++ = '-';
    out = kifa_decimal(day_of_month, 2, out);
    *out++ = ' ';
    out = kifa_decimal(second_of_day / 3600, 2, out);
    *out++ = ':';
    out = kifa_decimal(second_of_day / 60 % 60, 2, out);
    *out++ = ':';
    out = kifa_decimal(second_of_day % 60, 2, out);
    memcpy(out, " UTC", 4);
    return out + 4;
}

#endif
