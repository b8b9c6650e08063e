/* A fuzz target of the core: models and samples.
 *
 * The input makes a spec with sizes, values and tables that are mostly possible, now and then not, and arrays of exactly
 * the sizes that it names; then samples in segments. What the core takes has to behave: a stream that receives a segment
 * in pieces, with sums updated from frame to frame, gives the bits of one that receives it at once and computes all sums
 * from all inputs. Spikes are exact in both: weights are multiples of powers of two.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SNN_STAGES_ELSEWHERE
#include "snn_core_stream.h"

#define MOST_ARRAYS 128
#define MOST_ELEMENTS ((uint64_t)1 << 22)
#define MOST_REFUSED ((uint64_t)1 << 28)
#define MOST_SAMPLES 600
#define SEGMENTS 4
#define MOST_EVENTS 4096

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: check failed: %s\n", __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

extern const snn_core_stages snn_core_dense;

typedef struct {
    const uint8_t *data;
    size_t size;
    uint32_t random;
    int is_impossible; /* a value that the core has to refuse */
    int is_too_large;  /* what it may take, but not within this target's memory */
    int is_odd;        /* a size from the list below */
    void *arrays[MOST_ARRAYS];
    size_t count;
} input;

static uint32_t take_byte(input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static uint32_t next_random(input *in)
{
    in->random ^= in->random << 13;
    in->random ^= in->random >> 17;
    in->random ^= in->random << 5;
    return in->random;
}

static int32_t take_size(input *in, int32_t least, int32_t most)
{
    static const int32_t odd[] = {0,    -1,   INT32_MIN, INT32_MAX, 1,       2,       65535,   65536,
                                  4095, 4096, 4097,      1 << 20,   1 << 24, 1 << 30, -65536, 1073741825};
    const uint32_t byte = take_byte(in);
    if (byte < 254)
        return least + (int32_t)(byte % (uint32_t)(most - least + 1));
    in->is_odd = 1;
    return odd[take_byte(in) % (sizeof odd / sizeof *odd)];
}

static uint64_t elements(int64_t a, int64_t b, int64_t c, int64_t d)
{
    const int64_t sizes[] = {a, b, c, d};
    uint64_t product = 1;
    for (size_t i = 0; i < 4; i++) {
        if (sizes[i] < 1)
            return 0;
        product = product > MOST_REFUSED ? product : product * (uint64_t)sizes[i];
    }
    return product;
}

/* Return an array of exactly so many elements; one of nothing where the core must not read it. */
static void *array_of(input *in, uint64_t count, size_t size)
{
    if (count > MOST_ELEMENTS) {
        in->is_too_large |= count <= MOST_REFUSED;
        count = 0;
    }
    void *made = malloc(count ? (size_t)count * size : 1);
    CHECK(made && in->count < MOST_ARRAYS);
    in->arrays[in->count++] = made;
    return made;
}

static uint64_t readable(uint64_t count)
{
    return count > MOST_ELEMENTS ? 0 : count;
}

/* Return values from low to high in steps of a power of two; rarely one of them is not finite. */
static float *floats(input *in, uint64_t count, float low, float high, float step)
{
    float *made = array_of(in, count, sizeof *made);
    const uint32_t steps = (uint32_t)((high - low) / step) + 1;
    for (uint64_t i = 0; i < readable(count); i++)
        made[i] = low + step * (float)(next_random(in) % steps);
    if (readable(count) && take_byte(in) == 253) {
        made[next_random(in) % count] = next_random(in) % 2 ? NAN : -INFINITY;
        in->is_impossible = 1;
    }
    return made;
}

static double *doubles(input *in, uint64_t count)
{
    double *made = array_of(in, count, sizeof *made);
    for (uint64_t i = 0; i < readable(count); i++)
        made[i] = (double)(next_random(in) % 129) / 64 - 1;
    if (readable(count) && take_byte(in) == 253) {
        made[next_random(in) % count] = next_random(in) % 2 ? (double)NAN : 1e300;
        in->is_impossible = 1;
    }
    return made;
}

static void make_bands(input *in, snn_core_spec *p)
{
    const uint64_t bands = readable(elements(p->n_mels, 1, 1, 1));
    const uint32_t bins = p->n_fft > 0 ? (uint32_t)p->n_fft / 2 + 1 : 1;
    uint32_t *first = array_of(in, elements(p->n_mels, 1, 1, 1), sizeof *first);
    uint32_t *count = array_of(in, elements(p->n_mels, 1, 1, 1), sizeof *count);
    uint64_t terms = 0;
    for (uint64_t i = 0; i < bands; i++) {
        first[i] = next_random(in) % bins;
        count[i] = next_random(in) % (bins - first[i] + 1);
        if (next_random(in) % 128 == 0)
            first[i] = next_random(in);
        if (next_random(in) % 128 == 0)
            count[i] += next_random(in) % 64;
        terms += count[i];
    }
    p->mel_first = first;
    p->mel_count = count;
    p->mel_terms = take_byte(in) < 254 ? (int32_t)(terms & INT32_MAX) : take_size(in, 0, 9);
    p->mel_weights = doubles(in, elements(p->mel_terms, 1, 1, 1));
}

static uint64_t twiddles_of(int64_t n_fft)
{
    uint64_t count = 0;
    int64_t span = 4;
    for (; 4 * span <= n_fft / 2; span *= 4)
        count += 6 * (uint64_t)span;
    return span < n_fft / 2 ? count + 2 * (uint64_t)span : count;
}

static void make_front_end(input *in, snn_core_spec *p)
{
    p->n_fft = 16 << take_byte(in) % 4;
    if (take_byte(in) > 250)
        p->n_fft = take_size(in, 8, 64);
    p->frame_length = take_size(in, 1, 150);
    p->hop_length = take_size(in, 1, 150);
    p->n_mels = take_size(in, 1, 20);
    p->n_mfcc = take_size(in, 1, p->n_mels > 0 && p->n_mels < 12 ? p->n_mels : 12);
    p->has_log_floor = take_byte(in) % 2;
    p->log_floor = p->has_log_floor ? 1e-8 : 0;
    p->append_energy = take_byte(in) % 2;
    p->preemphasis = take_byte(in) % 2 ? 0.97 : 0;
    p->largest_sample = 32;
    p->window = doubles(in, elements(p->frame_length, 1, 1, 1));
    p->pass_twiddles = doubles(in, twiddles_of(p->n_fft));
    p->split_twiddles = doubles(in, elements(p->n_fft / 2, 1, 1, 1));
    p->dct = doubles(in, elements(p->n_mels, p->n_mfcc, 1, 1));
    make_bands(in, p);
    uint32_t *reversal = array_of(in, elements(p->n_fft / 8, 1, 1, 1), sizeof *reversal);
    for (uint64_t i = 0; i < readable(elements(p->n_fft / 8, 1, 1, 1)); i++)
        reversal[i] = next_random(in) % (next_random(in) % 512 ? (uint32_t)p->n_fft / 8 : UINT32_MAX);
    p->bit_reversal = reversal;
}

static void make_encoder(input *in, snn_core_spec *p)
{
    p->send_on_delta = take_byte(in) % 2;
    p->has_rest = take_byte(in) % 2;
    p->thresholds = take_size(in, 1, 2);
    p->keep = (float)(take_byte(in) % 65) / 64;
    p->threshold = floats(in, elements(p->thresholds, p->n_mfcc, 1, 1), 0.125f, 4, 0.125f);
    p->rest = floats(in, elements(p->n_mfcc, 1, 1, 1), -4, 4, 0.5f);
    p->to_bands = floats(in, elements(p->n_mfcc, p->n_mels, 1, 1), -1, 1, 0.0625f);
}

static void make_layer(input *in, snn_core_layer *l, int32_t channels, int32_t width, int is_last)
{
    l->in_channels = take_byte(in) < 254 ? channels : take_size(in, 1, 9);
    l->out_channels = take_size(in, 1, 40);
    l->frames = take_size(in, 1, 3);
    l->dilation = take_size(in, 1, 3);
    l->bands = is_last ? width : take_size(in, 1, 9);
    l->stride = take_size(in, 1, 3);
    l->padding = is_last ? 0 : take_size(in, 0, l->bands > 0 && l->bands < 10 ? l->bands - 1 : 0);
    const int64_t space = (int64_t)width + 2 * (int64_t)l->padding - l->bands;
    const int64_t wanted = space >= 0 && l->stride > 0 ? space / l->stride + 1 : 1;
    l->out_width = take_byte(in) < 254 && wanted <= INT32_MAX ? (int32_t)wanted : take_size(in, 1, 9);
    l->weight = floats(in, elements(l->in_channels, l->out_channels, l->frames, l->bands), -1, 1, 0.0625f);
    const uint64_t out = elements(l->out_channels, 1, 1, 1);
    l->bias = take_byte(in) % 2 ? floats(in, out, -1, 1, 0.0625f) : NULL;
    l->alpha = take_byte(in) % 2 ? floats(in, out, 0, 1, 0.0625f) : NULL;
    l->offset = take_byte(in) % 2 ? floats(in, out, -1, 1, 0.0625f) : NULL;
    l->beta = floats(in, out, 0, 1, 0.0625f);
}

static void make_network(input *in, snn_core_spec *p, snn_core_layer *layers, int32_t count)
{
    int32_t channels = p->thresholds > 0 && p->thresholds < 32768 ? 2 * p->thresholds : 2, width = p->n_mels;
    for (int32_t i = 0; i < count; i++) {
        make_layer(in, &layers[i], channels, width, i + 1 == count);
        channels = layers[i].out_channels;
        width = layers[i].out_width;
    }
    p->layer = layers;
    p->layers = take_byte(in) < 254 ? count : take_size(in, 1, count) > count ? -1 : count;
    p->classes = take_size(in, 1, 5);
    p->readout_weight = floats(in, elements(p->classes, channels, 1, 1), -1, 1, 0.0625f);
    p->readout_bias = floats(in, elements(p->classes, 1, 1, 1), -1, 1, 0.0625f);
    p->readout_beta = floats(in, elements(p->classes, 1, 1, 1), 0, 1, 0.0625f);
}

static int make_classes(input *in, snn_core_class *classes, int32_t count)
{
    int is_possible = 1;
    for (int32_t c = 0; c < count; c++) {
        snn_core_class *p = &classes[c];
        p->on_threshold = (float)(take_byte(in) % 64) / 64;
        p->off_threshold = p->on_threshold * 0.75f;
        p->smoothing = take_size(in, 1, 5);
        p->min_on = take_size(in, 1, 3);
        p->min_off = take_size(in, 1, 3);
        p->refractory = take_size(in, 0, 3);
        p->weight = take_byte(in) % 3 ? 0 : take_size(in, 0, 1024);
        p->leak = take_size(in, 0, 4096);
        p->bias = take_size(in, 0, 253);
        p->bias *= p->bias >= 0 && p->bias <= 253 ? 777 : 1;
        is_possible &= p->weight >= 0 && p->weight <= 1024 && p->leak >= 0 && p->leak <= 4096;
        is_possible &= p->bias >= 0 && p->bias <= 196608;
        is_possible &= p->smoothing >= 1 && p->min_on >= 1 && p->min_off >= 1 && p->refractory >= 0;
    }
    return is_possible;
}

/* A stream, and what it gave. */
typedef struct {
    snn_core_stream *stream;
    size_t frames;
    float *scores, **layers;
    snn_core_event events[MOST_EVENTS];
    size_t event_count;
} output;

static void keep_events(output *o, int64_t count)
{
    CHECK(count >= 0 && o->event_count + (size_t)count <= MOST_EVENTS);
    if (count)
        memcpy(o->events + o->event_count, snn_core_events(o->stream), (size_t)count * sizeof *o->events);
    o->event_count += (size_t)count;
}

static void make_outputs(output *o, const snn_core_spec *p, size_t frames)
{
    o->frames = 0;
    o->event_count = 0;
    o->scores = malloc(frames * (size_t)p->classes * sizeof *o->scores + 1);
    o->layers = malloc((size_t)p->layers * sizeof *o->layers);
    CHECK(o->scores && o->layers);
    for (int32_t i = 0; i < p->layers; i++) {
        const size_t size = (size_t)p->layer[i].out_channels * (size_t)p->layer[i].out_width;
        o->layers[i] = malloc(frames * size * sizeof **o->layers + 1);
        CHECK(o->layers[i]);
    }
}

static void free_outputs(output *o, const snn_core_spec *p)
{
    for (int32_t i = 0; i < p->layers; i++)
        free(o->layers[i]);
    free(o->layers);
    free(o->scores);
}

/* Process samples from a copy of exactly their size; samples of NULL are the padded last frame. */
static void process(output *o, const snn_core_spec *p, const float *samples, size_t n)
{
    float **layers = malloc((size_t)p->layers * sizeof *layers), *copy = malloc(n * sizeof *copy + 1);
    CHECK(layers && copy);
    for (int32_t i = 0; i < p->layers; i++)
        layers[i] = o->layers[i] + o->frames * (size_t)p->layer[i].out_channels * (size_t)p->layer[i].out_width;
    const snn_core_trace trace = {.scores = o->scores + o->frames * (size_t)p->classes, .layers = layers};
    const size_t expected = samples ? snn_core_frames_in(o->stream, n) : 0;
    const int64_t before = snn_core_frames(o->stream);
    if (samples)
        memcpy(copy, samples, n * sizeof *copy);
    keep_events(o, samples ? snn_core_push(o->stream, copy, n, &trace) : snn_core_finish(o->stream, &trace));
    const size_t done = (size_t)(snn_core_frames(o->stream) - before);
    CHECK(samples ? done == expected : done <= 1);
    o->frames += done;
    free(layers);
    free(copy);
}

/* In both, values that are not finite have to be in the same places, but may have any bits. */
static int are_equal(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(isnan(a[i]) && isnan(b[i])) && memcmp(&a[i], &b[i], sizeof *a) != 0)
            return 0;
    return 1;
}

static void compare(const output *a, const output *b, const snn_core_spec *p)
{
    CHECK(a->frames == b->frames);
    for (int32_t i = 0; i < p->layers; i++) {
        const size_t size = (size_t)p->layer[i].out_channels * (size_t)p->layer[i].out_width;
        CHECK(are_equal(a->layers[i], b->layers[i], a->frames * size));
    }
    CHECK(are_equal(a->scores, b->scores, a->frames * (size_t)p->classes));
    CHECK(a->event_count == b->event_count);
    CHECK(memcmp(a->events, b->events, a->event_count * sizeof *a->events) == 0);
    CHECK(snn_core_next_index(a->stream) == snn_core_next_index(b->stream));
    CHECK(snn_core_is_finite(a->stream) == snn_core_is_finite(b->stream));
}

static size_t make_samples(input *in, float *samples)
{
    const size_t n = take_byte(in) * MOST_SAMPLES / 255;
    const float level = ldexpf(1, -(int)(take_byte(in) % 24)), offset = (float)(take_byte(in) % 3) * level;
    const int is_silent = take_byte(in) % 4 == 0;
    for (size_t i = 0; i < n; i++)
        samples[i] = is_silent ? 0 : level * ((float)(next_random(in) % 257) / 128 - 1) + offset;
    return n;
}

static void refuse_samples(input *in, snn_core_stream *stream, const float *samples, size_t n)
{
    static const float wrong[] = {NAN, INFINITY, -INFINITY, 32.5f, -40000};
    float *copy = malloc((n + 1) * sizeof *copy);
    CHECK(copy);
    memcpy(copy, samples, n * sizeof *copy);
    copy[n] = wrong[take_byte(in) % 5];
    CHECK(snn_core_push(stream, copy, n + 1, NULL) == -2);
    free(copy);
}

static void run_segment(input *in, const snn_core_spec *p, output *pieces, output *whole)
{
    float samples[MOST_SAMPLES];
    const size_t n = make_samples(in, samples), frames = n / (size_t)p->hop_length + 3;
    make_outputs(pieces, p, frames);
    make_outputs(whole, p, frames);
    for (size_t at = 0; at < n;) {
        const size_t size = take_byte(in) % 8 ? next_random(in) % 97 : next_random(in) % 3;
        const size_t end = at + size < n ? at + size : n;
        if (next_random(in) % 16 == 0)
            refuse_samples(in, pieces->stream, samples, at);
        process(pieces, p, samples + at, end - at);
        at = end;
    }
    process(whole, p, samples, n);
    const uint32_t command = take_byte(in) % 8;
    if (command == 0) {
        process(pieces, p, NULL, 0);
        process(whole, p, NULL, 0);
    }
    if (command < 2) {
        keep_events(pieces, snn_core_close(pieces->stream));
        keep_events(whole, snn_core_close(whole->stream));
    }
    compare(pieces, whole, p);
    if (command < 3) {
        snn_core_reset(pieces->stream, command);
        snn_core_reset(whole->stream, command);
    }
    free_outputs(pieces, p);
    free_outputs(whole, p);
}

static void run_model(input *in, const snn_core_spec *p, const snn_core_model *model)
{
    snn_core_class classes[4096];
    const int is_possible = make_classes(in, classes, p->classes);
    static output pieces, whole;
    pieces.stream = snn_core_stream_new(model, classes);
    whole.stream = snn_core_stream_new(model, classes);
    CHECK(is_possible || !pieces.stream);
    if (pieces.stream && whole.stream) {
        whole.stream->stages = &snn_core_dense;
        for (int i = 0; i < SEGMENTS; i++)
            run_segment(in, p, &pieces, &whole);
    }
    snn_core_stream_free(pieces.stream);
    snn_core_stream_free(whole.stream);
}

/* Sums are exact, and a run short, only with sizes that are not odd ones. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {.data = data, .size = size};
    snn_core_spec spec = {0};
    snn_core_layer layers[4] = {{0}};
    char reason[100];
    in.random = 1 + take_byte(&in) + (take_byte(&in) << 8);
    make_front_end(&in, &spec);
    make_encoder(&in, &spec);
    make_network(&in, &spec, layers, 1 + (int32_t)(take_byte(&in) % 4));
    snn_core_model *model = in.is_too_large ? NULL : snn_core_model_new(&spec, reason, sizeof reason);
    CHECK(!model || !in.is_impossible);
    if (model && !in.is_odd)
        run_model(&in, &spec, model);
    snn_core_model_free(model);
    while (in.count)
        free(in.arrays[--in.count]);
    return 0;
}
