/* The spiking network, driven by its spikes: a step costs what arrives, not what there is.
 *
 *     U[t] = beta * V[t-1] + I[t],   S[t] = U[t] > 1,   V[t] = U[t] - S[t]
 *
 * In single precision, weights and inputs lie on grids of powers of two on which no sum of a layer
 * rounds, so that the order in which spikes are added cannot show: this gives the runtime's bits. What
 * follows the sum rounds as the runtime does, operation by operation, and so must not be fused.
 *
 * With int8 weights the sums are integers, each map's on its own grid; a shift leads them to the common
 * fixed point of synapses and membranes, which round to nearest and stay within 30 bits.
 *
 * Weights lie as [input channel][frame][band][output channel]: a spike counts for a whole row of
 * neighbours. Neurons lie as [band][channel], spikes as bits, each band's in words of its own. For each
 * band the rows are listed whose spikes were not there a frame ago, and those whose are there no longer;
 * they are added to and taken from sums that are carried on, in registers. With SNN_DENSE all sums are made
 * anew, of every input: that form is what tests hold this one against.
 */
#include "snn_detect.h"

#if !SNN_INT8
#include <math.h>
#endif
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#ifndef SNN_DENSE
#define SNN_DENSE 0
#endif

void snn_network_reset(snn_network *s)
{
    memset(s, 0, sizeof *s);
}

#if !SNN_DENSE
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
#endif

/* Sums of so many neighbours are kept in registers at once; each is a divisor of n. */
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#define BLOCK_OF(n) ((n) % 8 == 0 ? 8 : (n) % 5 == 0 ? 5 : (n) % 3 == 0 ? 3 : 1)
#else
#define BLOCK_OF(n) \
    ((n) % 32 == 0 ? 32 : (n) % 16 == 0 ? 16 : (n) % 8 == 0 ? 8 : (n) % 5 == 0 ? 5 : (n) % 3 == 0 ? 3 : 1)
#endif

/* Sums are in registers only if the loop over them is gone, which gcc does by itself from -O3 on. */
#if defined(__GNUC__) && !defined(__clang__)
#define UNROLLED _Pragma("GCC unroll 32")
#else
#define UNROLLED
#endif

/* Where nearly all the time goes: a loop for each length that occurs, which compilers can unroll. Rows of that
 * many weights are given by their numbers; what becomes of each with sums[m] the change says. */
#define FOR_ROWS(length, change) \
    case length: \
        for (size_t at = 0; at < length; at += BLOCK_OF(length)) { \
            snn_sum sums[BLOCK_OF(length)]; \
            memcpy(sums, to + at, sizeof sums); \
            for (size_t i = 0; i < count; i++) { \
                const snn_weight *row = weight + (size_t)rows[i] * length + at; \
                UNROLLED for (size_t m = 0; m < BLOCK_OF(length); m++) sums[m] change; \
            } \
            memcpy(to + at, sums, sizeof sums); \
        } \
        break;

static void add_rows(snn_sum *restrict to, const snn_weight *restrict weight, const uint16_t *restrict rows,
                     size_t count, size_t n)
{
#define ROW(length) FOR_ROWS(length, += row[m])
    switch (n) {
        SNN_ROW_LENGTHS(ROW)
    default:
        break;
    }
#undef ROW
}

static void take_rows(snn_sum *restrict to, const snn_weight *restrict weight, const uint16_t *restrict rows,
                      size_t count, size_t n)
{
#define ROW(length) FOR_ROWS(length, -= row[m])
    switch (n) {
        SNN_ROW_LENGTHS(ROW)
    default:
        break;
    }
#undef ROW
}

/* Each row as often as its input says. */
static void add_products(snn_sum *restrict to, const snn_weight *restrict weight, const uint16_t *restrict rows,
                         const snn_band *restrict inputs, size_t count, size_t n)
{
#define ROW(length) FOR_ROWS(length, += inputs[i] * row[m])
    switch (n) {
        SNN_ROW_LENGTHS(ROW)
    default:
        break;
    }
#undef ROW
}

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

static void add_bands(snn_band *restrict to, const snn_band *restrict row)
{
    for (size_t m = 0; m < SNN_N_MELS; m++)
        to[m] = (snn_band)(to[m] + row[m]);
}

/* The cepstral spikes of this frame back in bands: each adds a row of the inverse DCT. */
static void make_bands(snn_network *s, uint8_t spikes[SNN_PLANES][SNN_N_MFCC])
{
    size_t now = s->time % SNN_BAND_FRAMES;
    memset(s->bands[now], 0, sizeof s->bands[now]);
    memset(s->active[now], 0, sizeof s->active[now]);
    for (size_t p = 0; p < SNN_PLANES; p++)
        for (size_t k = 0; k < SNN_N_MFCC; k++)
            if (spikes[p][k]) {
                s->active[now][p] = 1;
                add_bands(s->bands[now][p], snn_to_bands[k]);
            }
}

/* The ring slot of a tap's frame; slots are all zero before the stream has filled them. */
static size_t slot(const snn_network *s, const snn_layer *l, size_t f, size_t ring)
{
    size_t ago = (size_t)(l->frames - 1 - f) * l->dilation;
    return (s->time + ring - ago % ring) % ring;
}

/* The places first .. end - 1 of a neuron's window that lie inside the layer before, and where the first is. */
typedef struct {
    size_t first, end, place;
} snn_window_part;

static snn_window_part window_of(const snn_layer *l, size_t o, size_t in_width)
{
    size_t begin = o * l->stride; /* of the padded width */
    snn_window_part part;
    part.first = begin < l->padding ? l->padding - begin : 0;
    part.end = in_width + l->padding - begin < l->bands ? in_width + l->padding - begin : l->bands;
    part.place = begin + part.first - l->padding;
    return part;
}

static size_t row_of(const snn_layer *l, size_t channel, size_t f, size_t band)
{
    return (channel * l->frames + f) * l->bands + band;
}

/* List what a place of the first layer hears: rows of weights, and the bands' values that they count for. */
static size_t list_bands(snn_network *s, const snn_layer *l, size_t o)
{
    size_t count = 0;
    snn_window_part part = window_of(l, o, SNN_N_MELS);
    for (size_t f = 0; f < l->frames; f++) {
        size_t at = slot(s, l, f, SNN_BAND_FRAMES);
        for (size_t p = 0; p < SNN_PLANES; p++) {
            if (!SNN_DENSE && !s->active[at][p])
                continue;
            for (size_t b = part.first; b < part.end; b++) {
                s->rows[count] = (uint16_t)row_of(l, p, f, b);
                s->inputs[count++] = s->bands[at][p][part.place + b - part.first];
            }
        }
    }
    return count;
}

/* List the rows of one place's spikes that were not there before. */
static size_t list_place(uint16_t *rows, const snn_layer *l, const uint32_t *now, const uint32_t *then, size_t f,
                         size_t band)
{
    size_t count = 0, step = (size_t)l->frames * l->bands;
    for (size_t i = 0; 32 * i < l->in_channels; i++) {
        size_t row = row_of(l, 32 * i, f, band);
#if SNN_DENSE
        (void)then;
        for (size_t bit = 0; bit < 32 && 32 * i + bit < l->in_channels; bit++)
            if (now[i] >> bit & 1u)
                rows[count++] = (uint16_t)(row + bit * step);
#else
        for (uint32_t word = now[i] & ~then[i]; word; word &= word - 1)
            rows[count++] = (uint16_t)(row + lowest_bit(word) * step);
#endif
    }
    return count;
}

/* List what a place of another layer hears anew, or no more: a row for each spike in its window that was not
 * there a frame ago, or is there no longer. */
static size_t list_spikes(snn_network *s, const snn_layer *l, const snn_layer *before, size_t o, int is_new)
{
    size_t count = 0, words_of_place = (l->in_channels + 31u) / 32u;
    snn_window_part part = window_of(l, o, before->out_width);
    for (size_t f = 0; f < l->frames; f++) {
        size_t at = slot(s, l, f, before->ring), ago = (at + before->ring - 1) % before->ring;
        const uint32_t *now = s->spikes + before->spikes + (is_new ? at : ago) * before->words;
        const uint32_t *then = s->spikes + before->spikes + (is_new ? ago : at) * before->words;
        for (size_t b = part.first; b < part.end; b++) {
            size_t word = (part.place + b - part.first) * words_of_place;
            count += list_place(s->rows + count, l, now + word, then + word, f, b);
        }
    }
    return count;
}

static void hear_bands(snn_network *s, const snn_layer *l)
{
    begin_sums(s->currents, l);
    for (size_t o = 0; o < l->out_width; o++)
        add_products(s->currents + o * l->out_channels, l->weight, s->rows, s->inputs, list_bands(s, l, o),
                     l->out_channels);
}

/* No sum rounds: one that is carried on is the one that would be made anew. */
static void hear_spikes(snn_network *s, const snn_layer *l, const snn_layer *before)
{
    snn_sum *sums = s->sums + l->membranes;
    if (SNN_DENSE || !s->has_sums)
        begin_sums(sums, l);
    for (size_t o = 0; o < l->out_width; o++) {
        snn_sum *to = sums + o * l->out_channels;
        add_rows(to, l->weight, s->rows, list_spikes(s, l, before, o, 1), l->out_channels);
        if (!SNN_DENSE)
            take_rows(to, l->weight, s->rows, list_spikes(s, l, before, o, 0), l->out_channels);
    }
    memcpy(s->currents, sums, l->neurons * sizeof *sums);
}

/* The neurons of up to 32 channels of a band, in loops without branches, one operation a line: compilers make
 * vectors of them where they know n. Currents become 1 for a neuron that fires, else 0. */
#if SNN_INT8
/* From a map's own grid to the common fixed point, which no sum can leave. */
static inline int32_t level_of(int32_t sum, uint8_t shift)
{
    return (int32_t)((uint32_t)sum << shift);
}

static inline void level(int32_t *restrict sums, const uint8_t *restrict shift, const int32_t *restrict bias, size_t n)
{
    for (size_t m = 0; m < n; m++)
        sums[m] = level_of(sums[m], shift[m]) + bias[m];
}

static inline void leak_synapses(int32_t *restrict currents, int32_t *restrict synapses, const int32_t *restrict alpha,
                                 const int32_t *restrict offset, size_t n)
{
    for (size_t m = 0; m < n; m++) {
        synapses[m] = snn_limited(snn_decayed(synapses[m], alpha[m]) + currents[m]);
        currents[m] = snn_limited(synapses[m] + offset[m]);
    }
}

static inline void move_membranes(int32_t *restrict currents, int32_t *restrict mem, const int32_t *restrict beta,
                                  size_t n)
{
    for (size_t m = 0; m < n; m++) {
        int32_t u = snn_limited(snn_decayed(mem[m], beta[m]) + currents[m]);
        int32_t spike = u > (int32_t)1 << SNN_LEVEL_BITS;
        mem[m] = u - spike * ((int32_t)1 << SNN_LEVEL_BITS);
        currents[m] = spike;
    }
}
#else
static inline void leak_synapses(float *restrict currents, float *restrict synapses, const float *restrict alpha,
                                 const float *restrict offset, size_t n)
{
    for (size_t m = 0; m < n; m++) {
        float decayed = alpha[m] * synapses[m];
        synapses[m] = decayed + currents[m];
        currents[m] = synapses[m] + offset[m];
    }
}

static inline void move_membranes(float *restrict currents, float *restrict mem, const float *restrict beta, size_t n)
{
    for (size_t m = 0; m < n; m++) {
        float kept = beta[m] * mem[m];
        float u = kept + currents[m];
        float spike = (float)(u > 1.0f);
        mem[m] = u - spike;
        currents[m] = spike;
    }
}
#endif

static inline uint32_t fire_some(snn_network *s, const snn_layer *l, size_t band, size_t channel, size_t n)
{
    size_t at = band * l->out_channels + channel;
    snn_sum *currents = s->currents + at;
    uint32_t word = 0;
#if SNN_INT8
    level(currents, l->shift + channel, l->bias + channel, n);
#endif
    if (l->alpha)
        leak_synapses(currents, s->synapses + l->synapses + at, l->alpha + channel, l->offset + channel, n);
    move_membranes(currents, s->membranes + l->membranes + at, l->beta + channel, n);
    for (size_t m = 0; m < n; m++)
        word |= (uint32_t)(int32_t)currents[m] << m;
    return word;
}

static void fire(snn_network *s, const snn_layer *l)
{
    uint32_t *words = s->spikes + l->spikes + (s->time % l->ring) * l->words;
    for (size_t o = 0; o < l->out_width; o++) {
        size_t c = 0;
        for (; c + 32 <= l->out_channels; c += 32)
            *words++ = fire_some(s, l, o, c, 32);
        if (c < l->out_channels)
            *words++ = fire_some(s, l, o, c, l->out_channels - c);
    }
}

#if SNN_INT8
/* By a table over the positive half, its values between the entries on straight lines. */
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

static int32_t score_of(int32_t *level, int32_t sum, size_t c)
{
    int32_t current = level_of(sum, snn_readout_shift[c]) + snn_readout_bias[c];
    *level = snn_limited(snn_decayed(*level, snn_readout_beta[c]) + current);
    return sigmoid(*level);
}
#else
static float score_of(float *level, float sum, size_t c)
{
    float kept = snn_readout_beta[c] * *level;
    *level = kept + sum;
    return 1.0f / (1.0f + expf(-*level));
}
#endif

/* List the dense neurons that fire. */
static size_t list_neurons(uint16_t *rows, const uint32_t *words)
{
    size_t count = 0;
    for (size_t n = 0; n < SNN_HIDDEN; n++)
        if (words[n / 32] >> n % 32 & 1u)
            rows[count++] = (uint16_t)n;
    return count;
}

static void read_out(snn_network *s, snn_score scores[SNN_CLASSES])
{
    const uint32_t *words = snn_layer_spikes(s, SNN_CONVS);
    snn_sum sums[SNN_CLASSES] = {0};
#if !SNN_INT8
    memcpy(sums, snn_readout_bias, sizeof sums);
#endif
    add_rows(sums, snn_readout_weight, s->rows, list_neurons(s->rows, words), SNN_CLASSES);
    for (size_t c = 0; c < SNN_CLASSES; c++)
        scores[c] = score_of(&s->readout[c], sums[c], c);
}

void snn_step(snn_network *s, uint8_t spikes[SNN_PLANES][SNN_N_MFCC], snn_score scores[SNN_CLASSES])
{
    s->time = (s->time + 1) % SNN_TIME_PERIOD; /* all rings begin anew together */
    make_bands(s, spikes);
    for (size_t i = 0; i <= SNN_CONVS; i++) {
        const snn_layer *l = &snn_layers[i];
        if (i)
            hear_spikes(s, l, &snn_layers[i - 1]);
        else
            hear_bands(s, l);
        fire(s, l);
    }
    s->has_sums = 1;
    read_out(s, scores);
}

/* The spikes of a layer in the frame that was judged last: bit c of a band's words is channel c. */
const uint32_t *snn_layer_spikes(const snn_network *s, size_t layer)
{
    const snn_layer *l = &snn_layers[layer];
    return s->spikes + l->spikes + (s->time % l->ring) * l->words;
}

/* Whether a neuron of such a layer fired. */
int snn_fired(const uint32_t *spikes, size_t layer, size_t channel, size_t band)
{
    size_t words_of_band = (snn_layers[layer].out_channels + 31u) / 32u;
    return (int)(spikes[band * words_of_band + channel / 32] >> channel % 32 & 1u);
}
