/* All stages in one piece, for the set of instructions of the compiler's options: SNN_STAGES names the table of
 * functions, SNN_INSTRUCTIONS is its name in text. */
#include "snn_core_stream.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "snn_mfcc.c"

#include "snn_cepstra_float.c"

#include "snn_encoder.c"

#include "snn_network.c"

#include "snn_decoder.c"

#define TEXT(name) TEXT_OF(name)
#define TEXT_OF(name) #name

/* In silence, synapses decay to subnormal numbers, with which these processors are a hundred times slower. Next to
 * thresholds of 1 they do not count. Only results become zero: samples may be subnormal, and are what they are. */
static unsigned flush_subnormals(void)
{
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8000u);
    return before;
#else
    return 0;
#endif
}

static void restore(unsigned before)
{
#if defined(__SSE2__)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

static void append(void *context, const snn_event *event)
{
    snn_core_append(context, event);
}

/* Where the next frame's values go. */
typedef struct {
    const snn_core_trace *to;
    size_t frame;
} place;

static void trace_input(const snn_core_stream *stream, place at, const float *mfcc, const uint8_t *encoded)
{
    const snn_model *m = stream->mfcc.model;
    const size_t width = 2 * m->thresholds * m->n_mfcc;
    if (at.to->frames)
        memcpy(at.to->frames + at.frame * m->n_mfcc, mfcc, m->n_mfcc * sizeof *mfcc);
    for (size_t i = 0; at.to->spikes && i < width; i++)
        at.to->spikes[at.frame * width + i] = encoded[i];
}

static void trace_layer(const snn_core_stream *stream, size_t layer, float *to)
{
    const snn_layer *l = &stream->network.model->layers[layer];
    const uint32_t *spikes = snn_layer_spikes(&stream->network, layer);
    const size_t words = l->words / l->out_width;
    for (size_t c = 0; c < l->channels; c++)
        for (size_t w = 0; w < l->out_width; w++)
            *to++ = (float)(spikes[w * words + c / 32] >> c % 32 & 1u);
}

static void trace_output(const snn_core_stream *stream, place at, const float *scores)
{
    const snn_model *m = stream->network.model;
    const size_t first = at.frame * m->classes, bytes = m->classes * sizeof *scores;
    for (size_t i = 0; at.to->layers && i <= m->convs; i++)
        if (at.to->layers[i])
            trace_layer(stream, i, at.to->layers[i] + at.frame * m->layers[i].channels * m->layers[i].out_width);
    if (at.to->membranes)
        memcpy(at.to->membranes + first, stream->network.readout, bytes);
    if (at.to->scores)
        memcpy(at.to->scores + first, scores, bytes);
    if (at.to->means)
        memcpy(at.to->means + first, stream->decoder.smoothed, m->classes * sizeof *at.to->means);
}

static void process_frame(snn_core_stream *stream, const float *mfcc, place at)
{
    const snn_model *m = stream->mfcc.model;
    uint8_t encoded[2 * m->thresholds][m->n_mfcc];
    float scores[m->classes];
    snn_encode(&stream->encoder, mfcc, encoded);
    snn_step(&stream->network, encoded, scores);
    snn_decode(&stream->decoder, scores, append, stream);
    if (at.to) {
        trace_input(stream, at, mfcc, encoded[0]);
        trace_output(stream, at, scores);
    }
}

/* Return whether all samples are numbers and none is larger than the largest one that is taken. Without their signs,
 * the bits of numbers are in the order of the numbers, and those of what is none are larger. */
static int are_in_scale(const snn_core_stream *stream, const float *samples, size_t n)
{
    const float most = (float)stream->mfcc.model->largest_sample;
    int32_t limit, bits, largest = 0;
    memcpy(&limit, &most, sizeof limit);
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, samples + i, sizeof bits);
        bits &= INT32_MAX;
        largest = bits > largest ? bits : largest;
    }
    return largest <= limit;
}

static int push(snn_core_stream *stream, const float *samples, size_t n, const snn_core_trace *trace)
{
    const unsigned before = flush_subnormals();
    float mfcc[stream->mfcc.model->n_mfcc];
    place at = {trace, 0};
    int has_frame;
    if (!are_in_scale(stream, samples, n)) {
        restore(before);
        return 0;
    }
    while (n > 0) {
        const size_t taken = snn_mfcc_push(&stream->mfcc, samples, n, mfcc, &has_frame);
        samples += taken;
        n -= taken;
        if (has_frame) {
            process_frame(stream, mfcc, at);
            at.frame++;
        }
    }
    restore(before);
    return 1;
}

static void finish(snn_core_stream *stream, const snn_core_trace *trace)
{
    const unsigned before = flush_subnormals();
    float mfcc[stream->mfcc.model->n_mfcc];
    stream->decoder.end = stream->mfcc.seen; /* the last frame is padded */
    if (snn_mfcc_flush(&stream->mfcc, mfcc))
        process_frame(stream, mfcc, (place){trace, 0});
    restore(before);
}

static void step(snn_core_stream *stream, const float *spikes, size_t frames, const snn_core_trace *trace)
{
    const unsigned before = flush_subnormals();
    const snn_model *m = stream->network.model;
    const size_t width = 2 * m->thresholds * m->n_mfcc;
    uint8_t encoded[2 * m->thresholds][m->n_mfcc];
    float scores[m->classes];
    for (size_t frame = 0; frame < frames; frame++) {
        for (size_t i = 0; i < width; i++)
            encoded[0][i] = spikes[frame * width + i] > 0.0f;
        snn_step(&stream->network, encoded, scores);
        if (trace)
            trace_output(stream, (place){trace, frame}, scores);
    }
    restore(before);
}

static void close_sounds(snn_core_stream *stream)
{
    snn_decoder_close(&stream->decoder, append, stream);
}

static void reset(snn_core_stream *stream)
{
    snn_mfcc_reset(&stream->mfcc);
    snn_encoder_reset(&stream->encoder);
    snn_network_reset(&stream->network);
    snn_decoder_reset(&stream->decoder);
}

static void cepstra(snn_mfcc *state, float *mfcc)
{
    transform(state, state->work, state->work + state->model->n_fft / 2);
    power_spectrum(state, state->work, state->work + state->model->n_fft / 2);
    cepstra_of_powers(state, state->work, mfcc);
}

const snn_core_stages SNN_STAGES = {TEXT(SNN_INSTRUCTIONS), AT_ONCE, push, finish, step, close_sounds, reset, cepstra};
