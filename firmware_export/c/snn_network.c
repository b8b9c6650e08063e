/* The spiking network, driven by its spikes: a step costs what arrives, not what there is.
 *
 *     U[t] = beta * V[t-1] + I[t],   S[t] = U[t] > 1,   V[t] = U[t] - S[t]
 *
 * Weights and inputs lie on grids of powers of two on which no sum of a layer rounds, so that the order
 * in which spikes are added cannot show: this gives the runtime's bits. What follows the sum rounds
 * as the runtime does, operation by operation, and so must not be fused.
 *
 * Weights lie as [input channel][frame][band][output channel]: an input spike reaches whole rows of
 * neighbours. Neurons lie as [band][channel]. With SNN_DENSE every input is taken, spike or not:
 * that form is what tests hold this one against.
 */
#include "snn_detect.h"

#include <math.h>
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

/* Where nearly all the time goes: a loop for each length that occurs, which compilers can unroll. */
static void add_row(float *restrict to, const float *restrict row, size_t n)
{
#define ROW(length) \
    case length: \
        for (size_t m = 0; m < length; m++) \
            to[m] += row[m]; \
        break;
    switch (n) {
        SNN_ROW_LENGTHS(ROW)
    default:
        break;
    }
#undef ROW
}

/* Add rows that lie behind each other, each as often as its input says. */
static void add_rows(float *restrict to, const float *restrict rows, const float *restrict inputs, size_t count,
                     size_t n)
{
#define ROW(length) \
    case length: \
        for (size_t i = 0; i < count; i++, rows += length) \
            for (size_t m = 0; m < length; m++) \
                to[m] += inputs[i] * rows[m]; \
        break;
    switch (n) {
        SNN_ROW_LENGTHS(ROW)
    default:
        break;
    }
#undef ROW
}

static void begin_currents(float *currents, const snn_layer *l)
{
    for (size_t o = 0; o < l->out_width; o++) {
        float *row = currents + o * l->out_channels;
        if (l->bias)
            memcpy(row, l->bias, l->out_channels * sizeof *row);
        else
            memset(row, 0, l->out_channels * sizeof *row);
    }
}

/* Let a spike of channel c at place w reach, by tap f, the neurons whose window it lies in. */
static void reach(float *currents, const snn_layer *l, size_t c, size_t w, size_t f)
{
    const float *rows = l->weight + (c * l->frames + f) * l->bands * l->out_channels;
    size_t o = (w + l->padding) / l->stride, b = (w + l->padding) % l->stride;
    for (; b < l->bands; b += l->stride, o--) {
        if (o < l->out_width)
            add_row(currents + o * l->out_channels, rows + b * l->out_channels, l->out_channels);
        if (o == 0)
            break;
    }
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
                add_row(s->bands[now][p], snn_to_bands[k], SNN_N_MELS);
            }
}

/* The ring slot of a tap's frame; slots are all zero before the stream has filled them. */
static size_t slot(const snn_network *s, const snn_layer *l, size_t f, size_t ring)
{
    size_t ago = (size_t)(l->frames - 1 - f) * l->dilation;
    return (s->time + ring - ago % ring) % ring;
}

/* A plane in bands has hardly a zero, once there is a spike in it: each neuron looks at its whole window. */
static void hear_plane(float *currents, const snn_layer *l, size_t plane, size_t f, const float bands[SNN_N_MELS])
{
    const float *rows = l->weight + (plane * l->frames + f) * l->bands * l->out_channels;
    for (size_t o = 0; o < l->out_width; o++) {
        size_t centre = o * l->stride;
        size_t first = centre < l->padding ? (size_t)l->padding - centre : 0;
        size_t end = SNN_N_MELS + l->padding - centre < l->bands ? SNN_N_MELS + l->padding - centre : l->bands;
        add_rows(currents + o * l->out_channels, rows + first * l->out_channels, bands + centre + first - l->padding,
                 end - first, l->out_channels);
    }
}

static void hear_bands(snn_network *s, const snn_layer *l)
{
    for (size_t f = 0; f < l->frames; f++) {
        size_t at = slot(s, l, f, SNN_BAND_FRAMES);
        for (size_t p = 0; p < SNN_PLANES; p++) {
            if (SNN_DENSE || s->active[at][p])
                hear_plane(s->currents, l, p, f, s->bands[at][p]);
        }
    }
}

static void hear_spikes(snn_network *s, const snn_layer *l, const snn_layer *before)
{
    for (size_t f = 0; f < l->frames; f++) {
        size_t at = slot(s, l, f, before->ring);
        const uint32_t *words = s->spikes + before->spikes + at * before->words;
        for (size_t i = 0; i < before->words; i++) {
#if SNN_DENSE
            for (size_t bit = 0; bit < 32 && 32 * i + bit < before->neurons; bit++) {
                size_t n = 32 * i + bit;
                if (words[i] >> bit & 1u)
                    reach(s->currents, l, n % l->in_channels, n / l->in_channels, f);
            }
#else
            for (uint32_t word = words[i]; word; word &= word - 1) {
                size_t n = 32 * i + lowest_bit(word);
                reach(s->currents, l, n % l->in_channels, n / l->in_channels, f);
            }
#endif
        }
    }
}

/* Loops without branches, one operation a line: compilers make vectors of them. */
static void leak_synapses(float *restrict currents, float *restrict synapses, const float *restrict alpha,
                          const float *restrict offset, size_t n)
{
    for (size_t m = 0; m < n; m++) {
        float decayed = alpha[m] * synapses[m];
        synapses[m] = decayed + currents[m];
        currents[m] = synapses[m] + offset[m];
    }
}

/* Put 1 in the place of a current whose neuron fires, else 0. */
static void move_membranes(float *restrict currents, float *restrict mem, const float *restrict beta, size_t n)
{
    for (size_t m = 0; m < n; m++) {
        float kept = beta[m] * mem[m];
        float u = kept + currents[m];
        float spike = u > 1.0f ? 1.0f : 0.0f;
        mem[m] = u - spike;
        currents[m] = spike;
    }
}

static void fire(snn_network *s, const snn_layer *l)
{
    uint32_t *words = s->spikes + l->spikes + (s->time % l->ring) * l->words;
    for (size_t o = 0; o < l->out_width; o++) {
        size_t at = o * l->out_channels;
        if (l->alpha)
            leak_synapses(s->currents + at, s->synapses + l->synapses + at, l->alpha, l->offset, l->out_channels);
        move_membranes(s->currents + at, s->membranes + l->membranes + at, l->beta, l->out_channels);
    }
    memset(words, 0, l->words * sizeof *words);
    for (size_t n = 0; n < l->neurons; n++)
        words[n / 32] |= (uint32_t)(s->currents[n] > 0.5f) << n % 32;
}

static void read_out(snn_network *s, float scores[SNN_CLASSES])
{
    const uint32_t *words = snn_layer_spikes(s, SNN_CONVS);
    float currents[SNN_CLASSES];
    memcpy(currents, snn_readout_bias, sizeof currents);
    for (size_t n = 0; n < SNN_HIDDEN; n++)
        if (words[n / 32] >> n % 32 & 1u)
            add_row(currents, snn_readout_weight + n * SNN_CLASSES, SNN_CLASSES);
    for (size_t c = 0; c < SNN_CLASSES; c++) {
        float kept = snn_readout_beta[c] * s->readout[c];
        s->readout[c] = kept + currents[c];
        scores[c] = 1.0f / (1.0f + expf(-s->readout[c]));
    }
}

void snn_step(snn_network *s, uint8_t spikes[SNN_PLANES][SNN_N_MFCC], float scores[SNN_CLASSES])
{
    s->time = (s->time + 1) % SNN_TIME_PERIOD; /* all rings begin anew together */
    make_bands(s, spikes);
    for (size_t i = 0; i <= SNN_CONVS; i++) {
        const snn_layer *l = &snn_layers[i];
        begin_currents(s->currents, l);
        if (i == 0)
            hear_bands(s, l);
        else
            hear_spikes(s, l, &snn_layers[i - 1]);
        fire(s, l);
    }
    read_out(s, scores);
}

/* The spikes of a layer in the frame that was judged last, bit band * channels + channel. */
const uint32_t *snn_layer_spikes(const snn_network *s, size_t layer)
{
    const snn_layer *l = &snn_layers[layer];
    return s->spikes + l->spikes + (s->time % l->ring) * l->words;
}
