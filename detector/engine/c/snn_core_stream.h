/* Between the two halves of the core: what is compiled once, and the stages, compiled for each set of instructions. */
#ifndef SNN_CORE_STREAM_H
#define SNN_CORE_STREAM_H

#include "snn_core.h"
#include "snn_stages.h"

struct snn_core_stream {
    snn_mfcc mfcc;
    snn_encoder encoder;
    snn_network network;
    snn_decoder decoder;
    const struct snn_core_stages *stages;
    snn_core_event *events;
    size_t event_count, event_space;
    int is_short_of_memory;
    void *memory;
};

/* The functions of one set of instructions. */
typedef struct snn_core_stages {
    const char *instructions;
    size_t lanes; /* of which numbers of channels are multiples */
    int (*push)(snn_core_stream *stream, const float *samples, size_t n, const snn_core_trace *trace);
    void (*finish)(snn_core_stream *stream, const snn_core_trace *trace);
    void (*step)(snn_core_stream *stream, const float *spikes, size_t frames, const snn_core_trace *trace);
    void (*close)(snn_core_stream *stream);
    void (*reset)(snn_core_stream *stream);
    void (*cepstra)(snn_mfcc *state, float *mfcc); /* of the frame that is pending, whatever it holds */
} snn_core_stages;

extern const snn_core_stages snn_core_baseline;
#if defined(__x86_64__)
extern const snn_core_stages snn_core_avx2, snn_core_avx512;
#endif

/* Append an event. */
void snn_core_append(snn_core_stream *stream, const snn_event *event);

#endif
