/* A fuzz target: events are consistent for any input, and do not depend on how it is divided into pushes.
 *
 * The first two bytes choose how pushes are divided. Then come commands of one byte each: samples taken from the
 * input, sound generated from three bytes (so that a short input reaches events), flush, reset or init.
 * A second detector receives the same samples undivided: its events must be the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snn_detect.h"

#define MAX_SAMPLES 32768 /* per input, about: 2 s, enough for an onset by noise */
#define MAX_AT_ONCE 8192

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: check failed: %s\n", __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

/* A detector and the events so far. */
typedef struct {
    snn_detector detector;
    int64_t pushed, last_emitted;
    uint32_t next_index, open_index[SNN_CLASSES];
    int64_t open_since[SNN_CLASSES];
    uint8_t is_open[SNN_CLASSES];
    int is_flushing;
    uint64_t event_hash; /* of all events */
} checked;

typedef struct {
    const uint8_t *data;
    size_t size;
} input;

static uint32_t take_byte(input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static void mix(checked *w, uint64_t value)
{
    w->event_hash = (w->event_hash ^ value) * 0x100000001b3u;
}

static void mix_score(checked *w, float score)
{
    uint32_t bits;
    CHECK(score >= 0.0f && score <= 1.0f); /* and not NaN */
    memcpy(&bits, &score, sizeof bits);
    mix(w, bits);
}

static void check_onset(checked *w, const snn_event *e)
{
    CHECK(!w->is_open[e->label]);
    CHECK(e->index == w->next_index);
    w->next_index++;
    w->is_open[e->label] = 1;
    w->open_index[e->label] = e->index;
    w->open_since[e->label] = e->onset_sample;
}

static void check_offset(checked *w, const snn_event *e)
{
    CHECK(w->is_open[e->label]);
    CHECK(e->index == w->open_index[e->label]);
    CHECK(e->onset_sample == w->open_since[e->label]);
    CHECK(e->offset_sample > e->onset_sample && e->offset_sample <= e->emitted_sample + 1);
    CHECK(e->reason == SNN_ENDED || (e->reason == SNN_END_OF_STREAM && w->is_flushing));
    w->is_open[e->label] = 0;
    mix(w, (uint64_t)e->offset_sample);
    mix(w, (uint64_t)e->reason);
    mix_score(w, e->peak);
    mix_score(w, e->mean);
}

/* No position is beyond the pushed samples. */
static void on_event(void *context, const snn_event *e)
{
    checked *w = context;
    CHECK(e->label < SNN_CLASSES);
    CHECK(e->onset_sample >= 0 && e->onset_sample < w->pushed && e->onset_sample <= e->emitted_sample);
    CHECK(e->emitted_sample < w->pushed);
    CHECK(e->emitted_sample >= w->last_emitted);
    w->last_emitted = e->emitted_sample;
    mix(w, (uint64_t)e->kind);
    mix(w, e->label);
    mix(w, (uint64_t)e->onset_sample);
    mix(w, (uint64_t)e->emitted_sample);
    mix_score(w, e->score);
    if (e->kind == SNN_ONSET)
        check_onset(w, e);
    else
        check_offset(w, e);
}

static void forget(checked *w)
{
    w->pushed = 0;
    w->last_emitted = 0;
    w->next_index = 0;
    memset(w->is_open, 0, sizeof w->is_open);
}

/* Events are reported during a push: all of its samples count as pushed. */
static void push(checked *w, const int16_t *samples, size_t n)
{
    w->pushed += (int64_t)n;
    snn_push(&w->detector, samples, n);
}

static void push_cut(checked *w, const int16_t *samples, size_t n, uint32_t *cuts)
{
    while (n > 0) {
        *cuts = *cuts * 1664525u + 1013904223u;
        size_t piece = (*cuts >> 16) % (2 * SNN_HOP_LENGTH); /* a push of 0 samples is allowed */
        piece = piece < n ? piece : n;
        push(w, samples, piece);
        samples += piece;
        n -= piece;
    }
}

static void flush(checked *w)
{
    w->is_flushing = 1;
    snn_flush(&w->detector);
    w->is_flushing = 0;
    for (size_t c = 0; c < SNN_CLASSES; c++)
        CHECK(!w->is_open[c]);
    forget(w);
}

static void init(checked *w)
{
    memset(w, 0xa5, sizeof *w); /* init must not depend on zeroed memory */
    w->is_flushing = 0;
    w->event_hash = 0;
    snn_init(&w->detector, on_event, w);
    forget(w);
}

static size_t take_samples(input *in, int16_t *samples)
{
    size_t n = take_byte(in);
    for (size_t i = 0; i < n; i++) {
        uint32_t low = take_byte(in);
        samples[i] = (int16_t)(low | take_byte(in) << 8);
    }
    return n;
}

/* Noise or a square wave, most often at full scale. */
static size_t make_samples(input *in, int16_t *samples)
{
    size_t n = 32 * (1 + take_byte(in));
    uint32_t kind = take_byte(in), loudness = take_byte(in) % 16, noise = kind | 1u;
    for (size_t i = 0; i < n; i++) {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        int32_t value = kind & 1u ? (int32_t)(noise & 0xffffu) - 32768 : (i / (1 + kind / 2)) % 2 ? 32767 : -32768;
        samples[i] = (int16_t)(value / (1 << loudness));
    }
    return n;
}

static size_t command(input *in, checked *cut, checked *whole, uint32_t *cuts)
{
    static int16_t samples[MAX_AT_ONCE];
    size_t n = 0;
    switch (take_byte(in) % 16) {
    case 0:
        flush(cut);
        flush(whole);
        break;
    case 1:
        snn_reset(&cut->detector);
        snn_reset(&whole->detector);
        forget(cut);
        forget(whole);
        break;
    case 2:
        CHECK(cut->event_hash == whole->event_hash);
        init(cut);
        init(whole);
        break;
    case 3:
    case 4:
    case 5:
        n = take_samples(in, samples);
        break;
    default:
        n = make_samples(in, samples);
    }
    push_cut(cut, samples, n, cuts);
    push(whole, samples, n);
    CHECK(cut->event_hash == whole->event_hash && cut->next_index == whole->next_index);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static checked cut, whole;
    input in = {data, size};
    uint32_t cuts = take_byte(&in);
    cuts = cuts << 8 | take_byte(&in);
    init(&cut);
    init(&whole);
    for (size_t samples = 0; in.size > 0 && samples < MAX_SAMPLES;)
        samples += command(&in, &cut, &whole, &cuts);
    flush(&cut);
    flush(&whole);
    CHECK(cut.event_hash == whole.event_hash);
    return 0;
}
