/* The core's models and streams: checked, copied into one block of memory each, and taken through the stages. */
#define SNN_STAGES_ELSEWHERE
#include "snn_core_stream.h"
#include "snn_evidence.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define MOST_BYTES ((uint64_t)1 << 30) /* of a model or a stream */
#define MOST_OF_ONE ((uint64_t)1 << 20)
#define MOST_OF_LAYER ((uint64_t)1 << 24) /* values of each kind: their sums over all layers fit 32 bits */
#define MOST_LAYERS 64
#define MOST_MAGNITUDE 1e30 /* of parameters: no power of a sample times these overflows */
#define MOST_WIDTH 4096 /* of what stands on the stack: cepstra, classes, cepstra times planes */
#define ALIGNMENT 64

#if defined(__GNUC__)
#define PUBLIC __attribute__((visibility("default")))
#else
#define PUBLIC
#endif

struct snn_core_model {
    snn_model model;
    const snn_core_stages *stages;
    void *memory;
};

/* A block of memory from which arrays are taken, one after the other; with base NULL they are only counted. */
typedef struct {
    unsigned char *base;
    uint64_t used;
} arena;

/* The address sanitizer reports what is read or written between two arrays. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define GAP ALIGNMENT
#endif
#endif
#ifndef GAP
#define GAP 0
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)0)
#endif

static void *take_bytes(arena *a, uint64_t count, uint64_t size)
{
    const uint64_t at = a->used, end = at + count * size;
    a->used = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + GAP;
    if (a->base)
        ASAN_POISON_MEMORY_REGION(a->base + end, a->used - end);
    return a->base ? a->base + at : NULL;
}

#define TAKE(a, pointer, count) ((pointer) = take_bytes(a, count, sizeof *(pointer)))

/* Return zeroed memory aligned to whole cache lines, to be freed by way of *memory. */
static unsigned char *allocate(uint64_t bytes, void **memory)
{
    if (bytes > MOST_BYTES)
        return NULL;
    *memory = calloc(1, (size_t)bytes + ALIGNMENT);
    return *memory ? (unsigned char *)(((uintptr_t)*memory + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT) : NULL;
}

#if defined(__x86_64__)
/* Return whether the operating system keeps all of these registers. */
static int keeps_registers(unsigned mask)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & mask) == mask;
}
#endif

static const snn_core_stages *best_stages(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 27) && keeps_registers(6) && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
        (b & 1u << 5)) {
        const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
        return (b & avx512) == avx512 && keeps_registers(0xe6) ? &snn_core_avx512 : &snn_core_avx2;
    }
#endif
    return &snn_core_baseline;
}

PUBLIC int snn_core_abi(void)
{
    return SNN_CORE_ABI;
}

PUBLIC const char *snn_core_instructions(void)
{
    return best_stages()->instructions;
}

/* --- Models --- */

static int lies_in(int64_t value, int64_t low, int64_t high)
{
    return value >= low && value <= high;
}

static size_t rounded_up(size_t n, size_t lanes)
{
    return (n + lanes - 1) / lanes * lanes;
}

static uint64_t twiddles_of(uint64_t n_fft)
{
    uint64_t half = n_fft / 2, count = 0, span = 4;
    for (; 4 * span <= half; span *= 4)
        count += 6 * span;
    return span < half ? count + 2 * span : count;
}

static int are_finite(const float *values, uint64_t n)
{
    for (uint64_t i = 0; values && i < n; i++)
        if (!isfinite(values[i]))
            return 0;
    return 1;
}

/* Return whether all values are numbers, and none of a size that leads to infinite powers. */
static int are_moderate(const double *values, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (!(fabs(values[i]) <= MOST_MAGNITUDE))
            return 0;
    return 1;
}

static int has_all_arrays(const snn_core_spec *p)
{
    return p->window && p->pass_twiddles && p->split_twiddles && p->dct && p->mel_weights && p->bit_reversal &&
           p->mel_first && p->mel_count && p->threshold && p->rest && p->to_bands && p->layer && p->readout_weight &&
           p->readout_bias && p->readout_beta;
}

static const char *wrong_values(const snn_core_spec *p)
{
    const uint64_t mels = (uint64_t)p->n_mels, mfcc = (uint64_t)p->n_mfcc, n_fft = (uint64_t)p->n_fft;
    const double scalars[] = {p->preemphasis, p->log_floor, p->largest_sample};
    if (!are_moderate(scalars, 3) || !isfinite(p->keep) || (p->has_log_floor && !(p->log_floor >= DBL_MIN)))
        return "a number of the front end";
    if (!are_moderate(p->window, (uint64_t)p->frame_length) || !are_moderate(p->pass_twiddles, twiddles_of(n_fft)) ||
        !are_moderate(p->split_twiddles, n_fft / 2) || !are_moderate(p->dct, mels * mfcc) ||
        !are_moderate(p->mel_weights, (uint64_t)p->mel_terms))
        return "a table of the front end, which is not finite";
    if (!are_finite(p->threshold, (uint64_t)p->thresholds * mfcc) || !are_finite(p->rest, mfcc) ||
        !are_finite(p->to_bands, mfcc * mels))
        return "a table of the encoder, which is not finite";
    return NULL;
}

static const char *wrong_front_end(const snn_core_spec *p)
{
    const int64_t most = (int64_t)MOST_OF_ONE;
    uint64_t terms = 0;
    if (!has_all_arrays(p))
        return "an array that is missing";
    if (!lies_in(p->frame_length, 1, most) || !lies_in(p->hop_length, 1, most))
        return "frame_length or hop_length";
    if (!lies_in(p->n_fft, 16, most) || (p->n_fft & (p->n_fft - 1)))
        return "n_fft, which has to be a power of two";
    if (!lies_in(p->n_mels, 1, MOST_WIDTH) || !lies_in(p->n_mfcc, 1, p->n_mels) || !lies_in(p->mel_terms, 0, most))
        return "n_mels, n_mfcc or mel_terms";
    for (int32_t i = 0; i < p->n_mels; i++) {
        if ((uint64_t)p->mel_first[i] + p->mel_count[i] > (uint64_t)p->n_fft / 2 + 1)
            return "the bins of a band";
        terms += p->mel_count[i];
    }
    if (terms != (uint64_t)p->mel_terms)
        return "mel_terms";
    for (int32_t i = 0; i < p->n_fft / 8; i++)
        if (p->bit_reversal[i] >= (uint32_t)p->n_fft / 8)
            return "bit_reversal";
    if (!lies_in((int64_t)p->thresholds * 2 * p->n_mfcc, 2, 16 * MOST_WIDTH))
        return "thresholds";
    return wrong_values(p);
}

/* Return whether weights, state and lists of a layer have sizes that fit: none of these products overflows. */
static int fits(const snn_core_layer *l, uint64_t in_channels, uint64_t in_width)
{
    const uint64_t frames = (uint64_t)l->frames, out = rounded_up((size_t)l->out_channels, SNN_MOST_LANES);
    const uint64_t in = rounded_up((size_t)in_channels, SNN_MOST_LANES);
    const uint64_t ring = (frames - 1) * (uint64_t)l->dilation + 2;
    return in_channels * frames * (uint64_t)l->bands * out <= (uint64_t)1 << 28 &&
           out * (uint64_t)l->out_width <= MOST_OF_LAYER && in * frames * in_width <= MOST_OF_LAYER &&
           SNN_LISTS * ring * (in * in_width + SNN_ROWS_AT_ONCE) <= (uint64_t)1 << 25;
}

static const char *wrong_layer(const snn_core_layer *l, int64_t in_channels, int64_t in_width)
{
    if (l->in_channels != in_channels)
        return "the input channels of a layer";
    if (!lies_in(l->out_channels, 1, 65536) || !lies_in(l->frames, 1, 4096) || !lies_in(l->dilation, 1, 4096) ||
        !lies_in(l->bands, 1, 65536) || !lies_in(l->stride, 1, 65536) ||
        !lies_in(l->padding, 0, l->bands - 1)) /* every kernel reads at least one position of the input */
        return "the sizes of a layer";
    const int64_t room = in_width + 2 * (int64_t)l->padding - l->bands;
    if (room < 0 || l->out_width != room / l->stride + 1)
        return "the width of a layer";
    if (!fits(l, (uint64_t)in_channels, (uint64_t)in_width))
        return "the size of a layer";
    const uint64_t out = (uint64_t)l->out_channels;
    if (!l->weight || !l->beta)
        return "a layer without weights or decays";
    const uint64_t weights = out * (uint64_t)in_channels * (uint64_t)l->frames * (uint64_t)l->bands;
    return are_finite(l->weight, weights) && are_finite(l->bias, out) && are_finite(l->alpha, out) &&
                   are_finite(l->offset, out) && are_finite(l->beta, out)
               ? NULL
               : "a layer's values, which are not finite";
}

static const char *wrong_spec(const snn_core_spec *p)
{
    const char *wrong = wrong_front_end(p);
    if (wrong)
        return wrong;
    if (!lies_in(p->layers, 1, MOST_LAYERS) || !lies_in(p->classes, 1, MOST_WIDTH))
        return "the number of layers or classes";
    int64_t channels = 2 * (int64_t)p->thresholds, width = p->n_mels;
    for (int32_t i = 0; i < p->layers && !wrong; i++) {
        wrong = wrong_layer(&p->layer[i], channels, width);
        channels = p->layer[i].out_channels;
        width = p->layer[i].out_width;
    }
    if (wrong)
        return wrong;
    if (width != 1)
        return "the last layer, which has to have one position";
    const uint64_t classes = (uint64_t)p->classes;
    return are_finite(p->readout_weight, classes * (uint64_t)channels) && are_finite(p->readout_bias, classes) &&
                   are_finite(p->readout_beta, classes)
               ? NULL
               : "the read-out, which is not finite";
}

/* Copy count values into an array of at least that many. */
#define COPY(a, pointer, from, count, space) copy_into(TAKE(a, pointer, space), from, count, sizeof *(pointer))

static void copy_into(void *to, const void *from, uint64_t count, size_t size)
{
    if (to)
        memcpy(to, from, (size_t)(count * size));
}

static const float *padded_copy(arena *a, const float *from, size_t channels, size_t lanes)
{
    float *to;
    if (!from)
        return NULL;
    COPY(a, to, from, channels, rounded_up(channels, lanes));
    return to;
}

static const float *zeros(arena *a, size_t channels, size_t lanes)
{
    float *to;
    return TAKE(a, to, rounded_up(channels, lanes)); /* memory is zeroed */
}

/* Copy weights from [out][in] to rows [in] of whole vectors. */
static const float *rows_of(arena *a, const float *from, size_t out, size_t in, size_t lanes)
{
    const size_t row = rounded_up(out, lanes);
    float *to;
    TAKE(a, to, (uint64_t)row * in);
    for (size_t i = 0; to && i < in; i++)
        for (size_t o = 0; o < out; o++)
            to[i * row + o] = from[o * in + i];
    return to;
}

static size_t past_of(const snn_core_layer *l)
{
    return (size_t)(l->frames - 1) * (size_t)l->dilation;
}

static void lay_out_layer(const snn_core_spec *p, snn_model *m, arena *a, size_t i, snn_layer *l)
{
    const snn_core_layer *from = &p->layer[i];
    const size_t out = (size_t)from->out_channels, in = (size_t)from->in_channels;
    l->channels = out;
    l->in_channels = in;
    l->out_channels = rounded_up(out, m->lanes);
    l->out_width = (size_t)from->out_width;
    l->neurons = l->out_channels * l->out_width;
    l->frames = (size_t)from->frames;
    l->dilation = (size_t)from->dilation;
    l->bands = (size_t)from->bands;
    l->stride = (size_t)from->stride;
    l->padding = (size_t)from->padding;
    l->ring = i + 1 < (size_t)p->layers ? past_of(from + 1) + 2 : 1;
    l->words = l->out_width * 2 * ((l->out_channels + 63) / 64); /* pairs are read at once */
    l->spikes = m->spike_words;
    l->slots = m->spike_slots;
    l->list_rows = l->neurons + SNN_ROWS_AT_ONCE;
    l->rows = m->n_rows;
    l->firsts = m->n_firsts;
    l->synapses = m->n_synapses;
    l->membranes = m->n_membranes;
    l->weight = rows_of(a, from->weight, out, in * l->frames * l->bands, m->lanes);
    l->bias = from->bias ? padded_copy(a, from->bias, out, m->lanes) : zeros(a, out, m->lanes);
    l->alpha = padded_copy(a, from->alpha, out, m->lanes);
    l->offset = from->offset || !from->alpha ? padded_copy(a, from->offset, out, m->lanes) : zeros(a, out, m->lanes);
    l->beta = padded_copy(a, from->beta, out, m->lanes);
    m->spike_words += l->ring * l->words;
    m->spike_slots += l->ring;
    m->n_rows += l->ring * SNN_LISTS * l->list_rows;
    m->n_firsts += l->ring * SNN_LISTS * (l->out_width + 1);
    m->n_synapses += l->alpha || from->alpha ? l->neurons : 0;
    m->n_membranes += l->neurons;
}

static uint64_t common_multiple(uint64_t a, uint64_t b)
{
    uint64_t x = a, y = b;
    while (y) {
        const uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

static int measure_layers(const snn_core_spec *p, snn_model *m, const snn_layer *layers)
{
    uint64_t period = m->band_frames;
    m->most_frames = 0;
    m->most_reached = 0;
    for (size_t i = 0; i < (size_t)p->layers; i++) {
        const snn_layer *l = &layers[i];
        const size_t reached = i ? layers[i - 1].neurons * l->frames : 0;
        m->most_frames = l->frames > m->most_frames ? l->frames : m->most_frames;
        m->most_reached = reached > m->most_reached ? reached : m->most_reached;
        period = common_multiple(period, l->ring);
        if (period > INT32_MAX)
            return 0;
    }
    m->time_period = (uint32_t)period;
    return 1;
}

/* Lay out all of a model; called once to count and once to copy. */
static int lay_out(const snn_core_spec *p, snn_model *m, arena *a, size_t lanes)
{
    const size_t n_fft = (size_t)p->n_fft, frame = (size_t)p->frame_length, mels = (size_t)p->n_mels;
    const size_t mfcc = (size_t)p->n_mfcc, classes = (size_t)p->classes, padded = frame > n_fft ? frame : n_fft;
    snn_layer own[MOST_LAYERS], *layers;
    double *window, *pass_twiddles, *split_twiddles, *dct, *mel_weights;
    uint32_t *bit_reversal, *mel_first, *mel_count;
    float *threshold, *rest, *to_bands;
    *m = (snn_model){.frame_length = frame, .hop_length = (size_t)p->hop_length, .n_fft = n_fft, .n_mels = mels,
                     .n_mfcc = mfcc, .thresholds = (size_t)p->thresholds, .convs = (size_t)p->layers - 1,
                     .classes = classes, .readout_row = rounded_up(classes, lanes), .lanes = lanes,
                     .band_frames = past_of(p->layer) + 1,
                     .has_log_floor = p->has_log_floor != 0, .append_energy = p->append_energy != 0,
                     .send_on_delta = p->send_on_delta != 0, .has_rest = p->has_rest != 0, .preemphasis = p->preemphasis,
                     .log_floor = p->log_floor, .largest_sample = p->largest_sample, .keep = p->keep};
    m->work = n_fft / 2 + 1 + mels > n_fft + 2 ? n_fft / 2 + 1 + mels : n_fft + 2;
    COPY(a, window, p->window, frame, padded);
    COPY(a, pass_twiddles, p->pass_twiddles, twiddles_of(n_fft), twiddles_of(n_fft) + 1);
    COPY(a, split_twiddles, p->split_twiddles, n_fft / 2, n_fft / 2);
    COPY(a, dct, p->dct, mels * mfcc, mels * mfcc);
    COPY(a, mel_weights, p->mel_weights, (uint64_t)p->mel_terms, (uint64_t)p->mel_terms + 1);
    COPY(a, bit_reversal, p->bit_reversal, n_fft / 8, n_fft / 8);
    COPY(a, mel_first, p->mel_first, mels, mels);
    COPY(a, mel_count, p->mel_count, mels, mels);
    COPY(a, threshold, p->threshold, (uint64_t)m->thresholds * mfcc, (uint64_t)m->thresholds * mfcc);
    COPY(a, rest, p->rest, mfcc, mfcc);
    COPY(a, to_bands, p->to_bands, mfcc * mels, mfcc * mels);
    TAKE(a, m->silence, mfcc);
    TAKE(a, layers, (uint64_t)p->layers);
    layers = layers ? layers : own;
    for (size_t i = 0; i < (size_t)p->layers; i++)
        lay_out_layer(p, m, a, i, &layers[i]);
    m->readout_weight = rows_of(a, p->readout_weight, classes, layers[m->convs].channels, lanes);
    m->readout_bias = padded_copy(a, p->readout_bias, classes, lanes);
    m->readout_beta = padded_copy(a, p->readout_beta, classes, lanes);
    m->window = window;
    m->pass_twiddles = pass_twiddles;
    m->split_twiddles = split_twiddles;
    m->dct = dct;
    m->mel_weights = mel_weights;
    m->bit_reversal = bit_reversal;
    m->mel_first = mel_first;
    m->mel_count = mel_count;
    m->threshold = threshold;
    m->rest = rest;
    m->to_bands = to_bands;
    m->layers = layers;
    return measure_layers(p, m, layers);
}

static int compute_silence(snn_core_model *model)
{
    const snn_model *m = &model->model;
    const size_t padded = m->frame_length > m->n_fft ? m->frame_length : m->n_fft;
    snn_mfcc state = {.model = m};
    state.pending = calloc(padded + m->work, sizeof *state.pending);
    if (!state.pending)
        return 0;
    state.work = state.pending + padded;
    model->stages->cepstra(&state, m->silence);
    free(state.pending);
    return 1;
}

PUBLIC snn_core_model *snn_core_model_new(const snn_core_spec *spec, char *reason, size_t bytes)
{
    const char *wrong = wrong_spec(spec);
    snn_core_model *model = wrong ? NULL : calloc(1, sizeof *model);
    arena counted = {NULL, 0};
    const snn_core_stages *stages = best_stages();
    if (model && !lay_out(spec, &model->model, &counted, stages->lanes))
        wrong = "the frames that layers remember";
    arena a = {model && !wrong ? allocate(counted.used, &model->memory) : NULL, 0};
    if (a.base) {
        model->stages = stages;
        lay_out(spec, &model->model, &a, stages->lanes);
        if (compute_silence(model))
            return model;
    }
    snprintf(reason, bytes, "%s", wrong ? wrong : "memory");
    snn_core_model_free(model);
    return NULL;
}

PUBLIC void snn_core_model_free(snn_core_model *model)
{
    if (model)
        free(model->memory);
    free(model);
}

/* --- Streams --- */

static void lay_out_stream(const snn_model *m, snn_core_stream *s, arena *a)
{
    const size_t padded = m->frame_length > m->n_fft ? m->frame_length : m->n_fft, slots = m->band_frames * 2 * m->thresholds;
    snn_network *n = &s->network;
    TAKE(a, s->mfcc.pending, padded);
    TAKE(a, s->mfcc.work, m->work);
    TAKE(a, s->encoder.baseline, m->n_mfcc);
    TAKE(a, n->bands, (uint64_t)slots * m->n_mels);
    TAKE(a, n->active, slots);
    TAKE(a, n->spikes, m->spike_words);
    TAKE(a, n->synapses, m->n_synapses);
    TAKE(a, n->membranes, m->n_membranes);
    TAKE(a, n->readout, m->readout_row);
    TAKE(a, n->sums, m->n_membranes);
    TAKE(a, n->plane, slots);
    TAKE(a, n->plane_row, slots);
    TAKE(a, n->rows, m->n_rows);
    TAKE(a, n->firsts, m->n_firsts);
    TAKE(a, n->counts, m->spike_slots);
    TAKE(a, n->lists, 2 * m->most_frames);
    TAKE(a, n->reached, m->most_reached + SNN_ROWS_AT_ONCE);
    TAKE(a, s->decoder.scores, (uint64_t)s->decoder.most_smoothing * m->classes);
    TAKE(a, s->decoder.smoothed, m->classes);
    TAKE(a, s->decoder.tracks, m->classes);
    TAKE(a, s->decoder.evidence, m->classes);
}

static int take_classes(snn_class *to, const snn_core_class *from, size_t classes, size_t *most_smoothing)
{
    *most_smoothing = 1;
    for (size_t c = 0; c < classes; c++) {
        const snn_core_class *p = &from[c];
        if (!lies_in(p->smoothing, 1, 65536) || p->min_on < 1 || p->min_off < 1 || p->refractory < 0 ||
            !isfinite(p->on_threshold) || !isfinite(p->off_threshold) || !lies_in(p->leak, 0, 1 << SNN_LEAK_BITS) ||
            !lies_in(p->weight, 0, 1 << SNN_PART_BITS) || !lies_in(p->bias, 0, SNN_ODDS << SNN_PART_BITS))
            return 0;
        to[c] = (snn_class){p->on_threshold, p->off_threshold, p->smoothing, p->min_on, p->min_off,
                            p->refractory,   p->leak,          p->weight,    p->bias};
        *most_smoothing = (size_t)p->smoothing > *most_smoothing ? (size_t)p->smoothing : *most_smoothing;
    }
    return 1;
}

PUBLIC snn_core_stream *snn_core_stream_new(const snn_core_model *model, const snn_core_class *classes)
{
    const snn_model *m = &model->model;
    snn_core_stream *s = calloc(1, sizeof *s);
    snn_class *own = calloc(m->classes, sizeof *own);
    arena counted = {NULL, 0};
    void *memory;
    if (s && own && take_classes(own, classes, m->classes, &s->decoder.most_smoothing)) {
        lay_out_stream(m, s, &counted);
        arena a = {allocate(counted.used, &memory), 0};
        if (a.base) {
            lay_out_stream(m, s, &a);
            s->memory = memory;
            s->stages = model->stages;
            s->mfcc.model = s->encoder.model = s->network.model = s->decoder.model = m;
            s->decoder.classes = own;
            s->stages->reset(s);
            return s;
        }
    }
    free(own);
    free(s);
    return NULL;
}

PUBLIC void snn_core_stream_free(snn_core_stream *stream)
{
    if (stream) {
        free((void *)(uintptr_t)stream->decoder.classes);
        free(stream->memory);
        free(stream->events);
    }
    free(stream);
}

void snn_core_append(snn_core_stream *s, const snn_event *e)
{
    if (s->event_count == s->event_space) {
        const size_t space = 2 * s->event_space + 16;
        snn_core_event *events = realloc(s->events, space * sizeof *events);
        if (!events) {
            s->is_short_of_memory = 1;
            return;
        }
        s->events = events;
        s->event_space = space;
    }
    s->events[s->event_count++] =
        (snn_core_event){e->kind == SNN_OFFSET, e->reason == SNN_ENDED, e->label,          e->index, e->onset_sample,
                         e->offset_sample,      e->emitted_sample,      e->score,          e->peak,  e->mean};
}

static void begin_call(snn_core_stream *s)
{
    s->event_count = 0;
    s->is_short_of_memory = 0;
}

static int64_t result_of(const snn_core_stream *s)
{
    return s->is_short_of_memory ? -1 : (int64_t)s->event_count;
}

PUBLIC size_t snn_core_frames_in(const snn_core_stream *s, size_t samples)
{
    const snn_model *m = s->mfcc.model;
    const size_t left = samples > s->mfcc.skip ? samples - s->mfcc.skip + s->mfcc.count : 0;
    return left < m->frame_length ? 0 : (left - m->frame_length) / m->hop_length + 1;
}

PUBLIC int64_t snn_core_push(snn_core_stream *s, const float *samples, size_t n, const snn_core_trace *trace)
{
    begin_call(s);
    return s->stages->push(s, samples, n, trace) ? result_of(s) : -2;
}

PUBLIC int64_t snn_core_finish(snn_core_stream *s, const snn_core_trace *trace)
{
    begin_call(s);
    s->stages->finish(s, trace);
    return result_of(s);
}

PUBLIC void snn_core_step(snn_core_stream *s, const float *spikes, size_t frames, const snn_core_trace *trace)
{
    begin_call(s);
    s->stages->step(s, spikes, frames, trace);
}

PUBLIC int64_t snn_core_close(snn_core_stream *s)
{
    begin_call(s);
    s->stages->close(s);
    return result_of(s);
}

PUBLIC const snn_core_event *snn_core_events(const snn_core_stream *s)
{
    return s->events;
}

PUBLIC void snn_core_reset(snn_core_stream *s, uint32_t next_index)
{
    begin_call(s);
    s->stages->reset(s);
    s->decoder.next_index = next_index;
}

PUBLIC uint32_t snn_core_next_index(const snn_core_stream *s)
{
    return s->decoder.next_index;
}

PUBLIC int64_t snn_core_frames(const snn_core_stream *s)
{
    return s->decoder.frames;
}

PUBLIC int snn_core_is_finite(const snn_core_stream *s)
{
    const snn_model *m = s->network.model;
    const snn_network *n = &s->network;
    return are_finite(n->synapses, m->n_synapses) && are_finite(n->membranes, m->n_membranes) &&
           are_finite(n->readout, m->classes);
}
