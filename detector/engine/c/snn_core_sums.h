/* Sums of the core's layers: rows of weights that are added to them and subtracted from them, in registers.
 *
 * A part of snn_network.c. Rows have any length that is a multiple of a vector: the largest block that is left, again
 * and again.
 */
#ifndef SNN_CORE_SUMS_H
#define SNN_CORE_SUMS_H

#if defined(__AVX512F__)
#define VECTOR 16
#define MOST_VECTORS 16
#elif defined(__AVX__)
#define VECTOR 8
#define MOST_VECTORS 12
#else
#define VECTOR 4
#if defined(__aarch64__)
#define MOST_VECTORS 24
#else
#define MOST_VECTORS 12
#endif
#endif

typedef snn_sum vector __attribute__((vector_size(VECTOR * sizeof(snn_sum)), aligned(sizeof(snn_sum)), may_alias));

/* A part of a list of rows of weights. */
typedef struct {
    const snn_row *begin, *end;
} snn_rows;

/* A block of the length that is left; length and size are in vectors. */
#define BLOCK_AT(length, size, change_block) \
    if ((size) <= MOST_VECTORS && (length) - at >= (size)) { \
        vector sums[size]; \
        EACH_SUM(size, = ((const vector *)from)[at + m]); \
        change_block(length, size) \
        UNROLLED for (size_t m = 0; m < (size); m++) ((vector *)to)[at + m] = sums[m]; \
        at += (size); \
        continue; \
    }
#define IN_BLOCKS(length, change_block) \
    for (size_t at = 0; at < (length);) { \
        BLOCK_AT(length, 24, change_block) \
        BLOCK_AT(length, 20, change_block) \
        BLOCK_AT(length, 16, change_block) \
        BLOCK_AT(length, 12, change_block) \
        BLOCK_AT(length, 10, change_block) \
        BLOCK_AT(length, 8, change_block) \
        BLOCK_AT(length, 6, change_block) \
        BLOCK_AT(length, 5, change_block) \
        BLOCK_AT(length, 4, change_block) \
        BLOCK_AT(length, 3, change_block) \
        BLOCK_AT(length, 2, change_block) \
        BLOCK_AT(length, 1, change_block) \
    }

/* Add, for each plane that is not all zero, the products of neighbouring positions with their rows of weights. */
APART static void add_products(const snn_network *s, snn_sum *restrict to, const snn_weight *restrict weight, size_t n,
                               snn_reach reach)
{
    const snn_sum *from = to;
    const size_t length = n / VECTOR;
#define BLOCK(length, size) \
    for (size_t i = 0; i < s->plane_count; i++) { \
        const snn_band *band = s->bands + s->plane[i] * SNN_N_MELS + reach.first; \
        const vector *row = (const vector *)weight + (s->plane_row[i] + reach.first - reach.less) * (length) + at; \
        for (size_t place = 0; place < reach.end - reach.first; place++, row += (length)) { \
            const snn_sum times = band[place]; \
            EACH_SUM(size, += times * row[m]); \
        } \
    }
    IN_BLOCKS(length, BLOCK)
#undef BLOCK
}

/* Take rows of weights, whose offsets are listed, to sums from or away from them; the results may take their place. */
#define CHANGE_SUMS(name, change_block) \
    APART static void name(snn_sum *to, const snn_sum *from, const snn_weight *weights, snn_rows rows, size_t n) \
    { \
        const size_t length = n / VECTOR; \
        IN_BLOCKS(length, change_block) \
    }
#define ROWS(size, change) \
    for (const snn_row *r = rows.begin; r < rows.end; r++) { \
        const vector *row = (const vector *)(weights + *r) + at; \
        EACH_SUM(size, change row[m]); \
    }
#define ADDED(length, size) ROWS(size, +=)
#define SUBTRACTED(length, size) ROWS(size, -=)
CHANGE_SUMS(add_rows, ADDED)
CHANGE_SUMS(subtract_rows, SUBTRACTED)

#endif
