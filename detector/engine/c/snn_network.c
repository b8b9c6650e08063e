/* The spiking network, event-driven: the cost of a step depends on the spikes that arrive.
 *
 *     U[t] = beta * V[t-1] + I[t],   S[t] = U[t] > 1,   V[t] = U[t] - S[t]
 *
 * In single precision, weights and inputs are multiples of powers of two on which no sum of a layer
 * rounds, so that the order in which spikes are added does not matter: the bits are the runtime's. What
 * follows the sum rounds as in the runtime, operation by operation, and so must not be fused.
 *
 * With int8 weights the sums are integers, on a grid of each output channel; a shift brings them to the fraction
 * bits of synapses and membranes, which round to nearest and stay within 30 bits.
 *
 * Weights are stored as [input channel][frame][band][output channel]: a spike adds a contiguous row. Neurons are
 * stored as [band][channel], spikes as bits, each band in its own words. For each layer, the spikes that are new
 * since the previous frame and those that are gone are listed once; their rows are added to and subtracted from
 * the sums of the previous frame, in registers. The core lists all spikes instead where these are fewer, and once
 * for all the frames that a layer reads (snn_core_spikes.h). With SNN_DENSE all sums are computed from all inputs:
 * tests compare the event-driven sums with those.
 */
#include "snn_stages.h"

#if SNN_CORE
#include "snn_sigmoid.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#elif !SNN_INT8
#include <math.h>
#endif
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#ifndef SNN_DENSE
#define SNN_DENSE 0
#endif

SNN_STAGE void snn_network_reset(snn_network *s)
{
#if SNN_CORE
    memset(s->bands, 0, SNN_BAND_FRAMES * SNN_PLANES * SNN_N_MELS * sizeof *s->bands);
    memset(s->active, 0, SNN_BAND_FRAMES * SNN_PLANES);
    memset(s->spikes, 0, SNN_SPIKE_WORDS * sizeof *s->spikes);
    memset(s->counts, 0, s->model->spike_slots * sizeof *s->counts);
    memset(s->synapses, 0, SNN_SYNAPSES * sizeof *s->synapses);
    memset(s->membranes, 0, SNN_MEMBRANES * sizeof *s->membranes);
    memset(s->readout, 0, SNN_CLASSES * sizeof *s->readout);
    s->has_sums = 0;
    s->time = 0;
#else
    memset(s, 0, sizeof *s);
#endif
}

/* The receptive field of a neuron: positions first .. end - 1 of the layer before. The row of a position's weight
 * is the row of the first tap plus the position minus less. */
typedef struct {
    size_t first, end, less;
} snn_reach;

static snn_reach reach_of(const snn_layer *l, size_t o, size_t in_width)
{
    size_t begin = o * l->stride, end = begin + l->bands; /* in the padded width */
    snn_reach reach;
    reach.first = begin < l->padding ? 0 : begin - l->padding;
    reach.end = end - l->padding < in_width ? end - l->padding : in_width;
    reach.less = begin - l->padding; /* below zero it wraps, and the difference wraps back */
    return reach;
}

/* Sums stay in registers only if the loop over them is unrolled, which gcc does by itself from -O3 on. With vectors
 * it widens int8 weights only in a loop. */
#if defined(__GNUC__) && !defined(__clang__) && !(SNN_INT8 && defined(__SSE2__))
#define UNROLLED _Pragma("GCC unroll 256")
#else
#define UNROLLED
#endif

/* gcc vectorises less of these loops when they are inlined into a larger function. */
#if defined(__GNUC__) && !defined(__clang__)
#define APART __attribute__((noinline))
#else
#define APART
#endif

#define EACH_SUM(size, change) UNROLLED for (size_t m = 0; m < (size); m++) sums[m] change

#if SNN_CORE
#include "snn_core_sums.h"
#else
/* The number of neighbouring sums kept in registers at once: the largest block that fits and divides n. */
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#define SUMS_AT_ONCE 8
#elif defined(__AVX__) || defined(__aarch64__)
#define SUMS_AT_ONCE 96
#else
#define SUMS_AT_ONCE 48
#endif
#define FITS(n, block) ((block) <= SUMS_AT_ONCE && (n) % (block) == 0)
#define BLOCK_OF(n) \
    (FITS(n, 96) ? 96 : FITS(n, 80) ? 80 : FITS(n, 64) ? 64 : FITS(n, 48) ? 48 : FITS(n, 40) ? 40 : FITS(n, 32) ? 32 : \
     FITS(n, 24) ? 24 : FITS(n, 16) ? 16 : FITS(n, 8) ? 8 : FITS(n, 5) ? 5 : FITS(n, 3) ? 3 : 1)

/* The part of a row that fills whole vectors; gcc computes one by one if the rest is in the same block. */
#define WHOLE(n) ((n) % 8 == 0 && (n) > 16 ? (n) / 16 * 16 : (n))

/* Nearly all time is spent here: one loop per length of rows in the model, which compilers can unroll. */
#define IN_BLOCKS(length, change_block) \
    case length: \
        FOR_BLOCKS(length, 0, WHOLE(length), change_block) \
        FOR_BLOCKS(length, WHOLE(length), length, change_block) \
        break;
#define FOR_BLOCKS(length, first, end, change_block) \
    for (size_t at = first; at < end; at += BLOCK_OF(end - first)) { \
        snn_sum sums[BLOCK_OF(end - first)]; \
        memcpy(sums, to + at, sizeof sums); \
        change_block(length, BLOCK_OF(end - first)); \
        memcpy(to + at, sums, sizeof sums); \
    }
#define FOR_LENGTH(n, row) \
    switch (n) { \
        SNN_ROW_LENGTHS(row) \
    default: \
        break; \
    }

static unsigned lowest_bit(uint32_t word)
{
#if defined(__GNUC__)
    return (unsigned)__builtin_ctz(word);
#else
    unsigned n = 0;
    while (!(word >> n & 1u))
        n++;
    return n;
#endif
}

/* A part of a list of rows of weights. */
typedef struct {
    const snn_row *begin, *end;
} snn_rows;

/* Add the new rows and subtract the gone ones; less is subtracted from each row's number. */
APART static void change_sums(snn_sum *restrict to, const snn_weight *restrict weight, snn_rows new, snn_rows gone,
                              size_t less, size_t n)
{
#define ROW_AT(length) weight + ((*r - less) * length + at)
#define BLOCK(length, size) \
    for (const snn_row *r = new.begin; r < new.end; r++) { \
        const snn_weight *row = ROW_AT(length); \
        EACH_SUM(size, += row[m]); \
    } \
    for (const snn_row *r = gone.begin; r < gone.end; r++) { \
        const snn_weight *row = ROW_AT(length); \
        EACH_SUM(size, -= row[m]); \
    }
#define ROW(length) IN_BLOCKS(length, BLOCK)
    FOR_LENGTH(n, ROW)
#undef ROW
#undef BLOCK
#undef ROW_AT
}

/* Add, for each plane that is not all zero, the products of neighbouring positions with their rows of weights.
 * The struct comes last, wholly on the stack: gcc does not count what it pushes of one that is in part in registers, and
 * the bound on firmware's stack is made of its counts. */
APART static void add_products(const snn_network *s, snn_sum *restrict to, const snn_weight *restrict weight, size_t n,
                               snn_reach reach)
{
#define BLOCK(length, size) \
    for (size_t i = 0; i < s->plane_count; i++) { \
        const snn_band *band = s->bands + s->plane[i] * SNN_N_MELS + reach.first; \
        const snn_weight *row = weight + ((s->plane_row[i] + reach.first - reach.less) * length + at); \
        for (size_t place = 0; place < reach.end - reach.first; place++) { \
            const snn_sum times = band[place]; \
            EACH_SUM(size, += times * row[place * length + m]); \
        } \
    }
#define ROW(length) IN_BLOCKS(length, BLOCK)
    FOR_LENGTH(n, ROW)
#undef ROW
#undef BLOCK
}

#endif

static void begin_sums(snn_sum *sums, const snn_layer *l)
{
#if SNN_INT8
    memset(sums, 0, l->neurons * sizeof *sums);
#else
    for (size_t o = 0; o < l->out_width; o++) {
        float *row = sums + o * l->out_channels;
        if (l->bias)
            memcpy(row, l->bias, l->out_channels * sizeof *row);
        else
            memset(row, 0, l->out_channels * sizeof *row);
    }
#endif
}

static void add_bands(snn_band *restrict to, const snn_band *restrict row, size_t n)
{
    for (size_t m = 0; m < n; m++)
        to[m] = (snn_band)(to[m] + row[m]);
}

/* Return whether a plane has a spike; compilers look at whole vectors at once. */
static inline int has_spike(const uint8_t *spikes, size_t n)
{
    uint8_t some = 0;
    for (size_t k = 0; k < n; k++)
        some |= spikes[k];
    return some;
}

/* Compute the bands of this frame from its cepstral spikes, 0 or 1: each adds a row of the inverse DCT. */
APART static void make_bands(snn_network *s, uint8_t spikes[SNN_PLANES][SNN_N_MFCC])
{
    size_t first = s->time % SNN_BAND_FRAMES * SNN_PLANES;
    memset(s->bands + first * SNN_N_MELS, 0, SNN_PLANES * SNN_N_MELS * sizeof *s->bands);
    for (size_t p = 0; p < SNN_PLANES; p++) {
        s->active[first + p] = (uint8_t)has_spike(spikes[p], SNN_N_MFCC);
        for (size_t k = 0; s->active[first + p] && k < SNN_N_MFCC; k++)
            if (spikes[p][k])
                add_bands(s->bands + (first + p) * SNN_N_MELS, snn_to_bands + k * SNN_N_MELS, SNN_N_MELS);
    }
}

static size_t wrapped(size_t at, size_t ring)
{
    return at < ring ? at : at - ring;
}

/* Return the slot of the oldest frame that a layer reads; slots are zero until the stream has filled them. */
static size_t oldest_slot(const snn_network *s, const snn_layer *l, size_t ring)
{
    return wrapped(s->time % ring + ring - (size_t)(l->frames - 1) * l->dilation, ring);
}

static void list_planes(snn_network *s, const snn_layer *l)
{
    size_t at = oldest_slot(s, l, SNN_BAND_FRAMES);
    s->plane_count = 0;
    for (size_t f = 0; f < l->frames; f++) {
        for (size_t p = 0; p < SNN_PLANES; p++)
            if (SNN_DENSE || s->active[at * SNN_PLANES + p]) {
                s->plane[s->plane_count] = (snn_row)(at * SNN_PLANES + p);
                s->plane_row[s->plane_count++] = (snn_row)((p * l->frames + f) * l->bands);
            }
        at = wrapped(at + l->dilation, SNN_BAND_FRAMES);
    }
}

static void sum_bands(snn_network *s, const snn_layer *l)
{
    snn_sum *sums = s->sums + l->membranes;
    list_planes(s, l);
    if (s->plane_count || s->had_planes || !s->has_sums || SNN_DENSE)
        begin_sums(sums, l);
    s->had_planes = s->plane_count > 0;
    for (size_t o = 0; o < l->out_width && s->plane_count; o++)
        add_products(s, sums + o * l->out_channels, l->weight, l->out_channels, reach_of(l, o, SNN_N_MELS));
}

#if SNN_CORE
#include "snn_core_spikes.h"
#else
/* List the spikes that are new since the previous frame and those that are gone, in all frames that a layer reads,
 * position by position, so that a receptive field is a part of the list. No spike is both, and one array holds all:
 * the new ones from its start, the gone ones from its end. */
APART static void list_changes(snn_network *s, const snn_layer *l, const snn_layer *before)
{
    const size_t words = (l->in_channels + 31u) / 32u, step = (size_t)l->frames * l->bands, ring = before->ring;
    const size_t oldest = oldest_slot(s, l, ring);
    snn_row *new = s->rows, *gone = s->rows + SNN_MOST_CHANGES;
    for (size_t place = 0; place < before->out_width; place++) {
        s->first_new[place] = (snn_row)(new - s->rows);
        s->end_gone[place] = (snn_row)(gone - s->rows);
        for (size_t f = 0, at = oldest; f < l->frames; f++, at = wrapped(at + l->dilation, ring)) {
            const uint32_t *spikes = s->spikes + before->spikes + place * words;
            const uint32_t *now = spikes + at * before->words;
            const uint32_t *then = spikes + (at ? at - 1 : ring - 1) * before->words;
            size_t row = f * l->bands + place;
            for (size_t i = 0; i < words; i++, row += 32 * step)
                for (uint32_t changed = SNN_DENSE ? now[i] : now[i] ^ then[i]; changed; changed &= changed - 1) {
                    const unsigned bit = lowest_bit(changed), is_new = now[i] >> bit & 1u;
                    *new = gone[-1] = (snn_row)(row + bit * step); /* one of both is kept */
                    new += is_new;
                    gone -= 1 - is_new;
                }
        }
    }
    s->first_new[before->out_width] = (snn_row)(new - s->rows);
    s->end_gone[before->out_width] = (snn_row)(gone - s->rows);
}

/* No sum rounds: updating the previous sum gives the same bits as summing all inputs. */
static void sum_spikes(snn_network *s, const snn_layer *l, const snn_layer *before)
{
    snn_sum *sums = s->sums + l->membranes;
    if (SNN_DENSE || !s->has_sums)
        begin_sums(sums, l);
    list_changes(s, l, before);
    for (size_t o = 0; o < l->out_width; o++) {
        snn_reach reach = reach_of(l, o, before->out_width);
        snn_rows new = {s->rows + s->first_new[reach.first], s->rows + s->first_new[reach.end]};
        snn_rows gone = {s->rows + s->end_gone[reach.end], s->rows + s->end_gone[reach.first]};
        if (new.begin < new.end || gone.begin < gone.end)
            change_sums(sums + o * l->out_channels, l->weight, new, gone, reach.less, l->out_channels);
    }
}

/* Sum the weights of the read-out for the spikes of the last layer. */
static void sum_last_spikes(snn_network *s, snn_sum sums[SNN_READOUT_ROW])
{
    const uint32_t *words = snn_layer_spikes(s, SNN_CONVS);
    snn_row *end = s->rows;
#if SNN_INT8
    memset(sums, 0, SNN_READOUT_ROW * sizeof *sums);
#else
    memcpy(sums, snn_readout_bias, SNN_READOUT_ROW * sizeof *sums);
#endif
    for (size_t n = 0; n < SNN_HIDDEN; n += 32)
        for (uint32_t word = words[n / 32]; word; word &= word - 1)
            *end++ = (snn_row)(n + lowest_bit(word));
    change_sums(sums, snn_readout_weight, (snn_rows){s->rows, end}, (snn_rows){end, end}, 0, SNN_READOUT_ROW);
}

/* Neurons are updated in groups of eight, in loops without branches that compilers vectorise. */
#define GROUP 8

/* gcc vectorises a loop only if it has not unrolled it first, as it does from -O3 on. */
#if defined(__GNUC__) && !defined(__clang__)
#define LOOP _Pragma("GCC unroll 1")
#else
#define LOOP
#endif

#if SNN_INT8
/* Convert a sum from its channel's grid to SNN_LEVEL_BITS fraction bits, which the export has checked to fit. */
static inline int32_t level_of(int32_t sum, uint8_t shift)
{
    return (int32_t)((uint32_t)sum << shift);
}

static inline void take_currents(int32_t *restrict currents, const int32_t *restrict sums, const snn_layer *l,
                                 size_t channel, size_t n)
{
    const uint8_t *shift = l->shift + channel;
    const int32_t *bias = l->bias + channel;
    LOOP for (size_t m = 0; m < n; m++)
        currents[m] = level_of(sums[m], shift[m]) + bias[m];
}

static inline void leak_synapses(int32_t *restrict currents, int32_t *restrict synapses, const int32_t *restrict alpha,
                                 const int32_t *restrict offset, size_t n)
{
    LOOP for (size_t m = 0; m < n; m++) {
        synapses[m] = snn_limited(snn_decayed(synapses[m], alpha[m]) + currents[m]);
        currents[m] = snn_limited(synapses[m] + offset[m]);
    }
}

static inline void move_membranes(const int32_t *restrict currents, int32_t *restrict mem,
                                  const int32_t *restrict beta, int32_t *restrict fired, size_t n)
{
    LOOP for (size_t m = 0; m < n; m++) {
        int32_t u = snn_limited(snn_decayed(mem[m], beta[m]) + currents[m]);
        fired[m] = -(u > (int32_t)1 << SNN_LEVEL_BITS);
        mem[m] = u + fired[m] * ((int32_t)1 << SNN_LEVEL_BITS);
    }
}
#else
static inline void take_currents(float *restrict currents, const float *restrict sums, const snn_layer *l,
                                 size_t channel, size_t n)
{
    (void)l; /* the bias is in the sums */
    (void)channel;
    LOOP for (size_t m = 0; m < n; m++)
        currents[m] = sums[m];
}

static inline void leak_synapses(float *restrict currents, float *restrict synapses, const float *restrict alpha,
                                 const float *restrict offset, size_t n)
{
    LOOP for (size_t m = 0; m < n; m++) {
        float decayed = alpha[m] * synapses[m];
        synapses[m] = decayed + currents[m];
        currents[m] = synapses[m] + offset[m];
    }
}

static inline void move_membranes(const float *restrict currents, float *restrict mem, const float *restrict beta,
                                  int32_t *restrict fired, size_t n)
{
    LOOP for (size_t m = 0; m < n; m++) {
        float kept = beta[m] * mem[m];
        mem[m] = kept + currents[m];
        fired[m] = -(mem[m] > 1.0f);
    }
    LOOP for (size_t m = 0; m < n; m++)
        mem[m] += (float)fired[m];
}
#endif

static const uint32_t places[GROUP] = {1, 2, 4, 8, 16, 32, 64, 128};

/* Update n neurons from number at of the layer on; return their spikes as bits. */
static inline uint32_t fire_some(snn_network *s, const snn_layer *l, size_t at, size_t channel, size_t n)
{
    snn_level currents[GROUP];
    int32_t fired[GROUP]; /* all bits set for a neuron that fires, else 0 */
    uint32_t bits = 0;
    take_currents(currents, s->sums + l->membranes + at, l, channel, n);
    if (l->alpha)
        leak_synapses(currents, s->synapses + l->synapses + at, l->alpha + channel, l->offset + channel, n);
    move_membranes(currents, s->membranes + l->membranes + at, l->beta + channel, fired, n);
    LOOP for (size_t m = 0; m < n; m++)
        bits |= (uint32_t)fired[m] & places[m];
    return bits;
}

/* Channels are in words of 32; those beyond the last whole group of eight are updated one by one. */
static void fire(snn_network *s, const snn_layer *l)
{
    uint32_t *words = s->spikes + l->spikes + s->time % l->ring * l->words;
    const size_t n = l->out_channels;
    for (size_t o = 0, at = 0; o < l->out_width; o++)
        for (size_t c = 0; c < n; words++) {
            const size_t begin = c, end = n - c < 32 ? n : c + 32;
            *words = 0;
            for (; c + GROUP <= end; c += GROUP, at += GROUP)
                *words |= fire_some(s, l, at, c, GROUP) << (c - begin);
            for (; c < end; c++, at++)
                *words |= fire_some(s, l, at, c, 1) << (c - begin);
        }
}

#if SNN_INT8
/* Linear interpolation in a table of the positive half. */
static int32_t sigmoid(int32_t level)
{
    const int shift = SNN_LEVEL_BITS - SNN_SIGMOID_STEP_BITS;
    const int32_t end = (int32_t)SNN_SIGMOID_STEPS << shift;
    int32_t size = level < 0 ? -level : level;
    size = size < end ? size : end - 1;
    const uint16_t *at = snn_sigmoid + (size >> shift);
    int32_t part = size & (((int32_t)1 << shift) - 1);
    int32_t score = at[0] + (int32_t)(((int64_t)(at[1] - at[0]) * part + ((int64_t)1 << (shift - 1))) >> shift);
    return level < 0 ? (1 << SNN_SCORE_BITS) - score : score;
}

static int32_t score_of(const snn_network *s, int32_t *level, int32_t sum, size_t c)
{
    (void)s;
    int32_t current = level_of(sum, snn_readout_shift[c]) + snn_readout_bias[c];
    *level = snn_limited(snn_decayed(*level, snn_readout_beta[c]) + current);
    return sigmoid(*level);
}
#else
static float score_of(const snn_network *s, float *level, float sum, size_t c)
{
    float kept = snn_readout_beta[c] * *level;
    (void)s;
    *level = kept + sum;
    return 1.0f / (1.0f + expf(-*level));
}
#endif

/* Take the classes' sums of this frame into their membranes; compute the scores. */
static void score_classes(snn_network *s, const snn_sum sums[SNN_READOUT_ROW], snn_score scores[SNN_CLASSES])
{
    for (size_t c = 0; c < SNN_CLASSES; c++)
        scores[c] = score_of(s, &s->readout[c], sums[c], c);
}
#endif

static void read_out(snn_network *s, snn_score scores[SNN_CLASSES])
{
    snn_sum sums[SNN_READOUT_ROW];
    sum_last_spikes(s, sums);
    score_classes(s, sums, scores);
}

SNN_STAGE void snn_step(snn_network *s, uint8_t spikes[SNN_PLANES][SNN_N_MFCC], snn_score scores[SNN_CLASSES])
{
    s->time = (s->time + 1) % SNN_TIME_PERIOD; /* a multiple of all rings */
    make_bands(s, spikes);
    for (size_t i = 0; i <= SNN_CONVS; i++) {
        const snn_layer *l = &snn_layers[i];
        if (i)
            sum_spikes(s, l, &snn_layers[i - 1]);
        else
            sum_bands(s, l);
        fire(s, l);
    }
    s->has_sums = 1;
    read_out(s, scores);
}

/* Return the spikes of a layer in the last frame: bit c of a band's words is channel c. */
SNN_STAGE const uint32_t *snn_layer_spikes(const snn_network *s, size_t layer)
{
    const snn_layer *l = &snn_layers[layer];
    return s->spikes + l->spikes + (s->time % l->ring) * l->words;
}

#if !SNN_CORE
/* Return whether a neuron fired, from the spikes of its layer. */
int snn_fired(const uint32_t *spikes, size_t layer, size_t channel, size_t band)
{
    size_t words_of_band = (snn_layers[layer].out_channels + 31u) / 32u;
    return (int)(spikes[band * words_of_band + channel / 32] >> channel % 32 & 1u);
}
#endif
