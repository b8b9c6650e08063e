/* A streaming sound detector: 16-bit samples in, onsets and offsets of labelled sounds out.
 *
 *     static snn_detector detector;
 *     snn_init(&detector, on_event, NULL);
 *     for (;;) snn_push(&detector, samples, n);       any n, SNN_SAMPLE_RATE_HZ, mono
 *
 * All state is in the struct that the caller owns: nothing is allocated, no function is recursive and there
 * are no global variables, so any number of detectors may run side by side. Arrays and sizes of the model
 * are in snn_model.h and snn_model.c. Of the C library, memcpy, memmove and memset are used, log or logf
 * with a front end in floating point, and expf with a network in floating point.
 */
#ifndef SNN_DETECT_H
#define SNN_DETECT_H

#include "snn_stages.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The values of a frame after each stage; pointers are valid until the next frame. */
typedef struct {
    int64_t frame;
    const snn_cepstrum *mfcc;                /* SNN_N_MFCC */
    const uint8_t *encoded;                  /* SNN_PLANES x SNN_N_MFCC, 0 or 1 */
    const uint32_t *spikes[SNN_CONVS + 1];   /* of each layer, the dense layer last; see snn_fired */
    const snn_score *scores;                 /* SNN_CLASSES */
} snn_probe;

typedef void (*snn_on_frame)(void *context, const snn_probe *probe);

typedef struct {
    snn_mfcc mfcc;
    snn_encoder encoder;
    snn_network network;
    snn_decoder decoder;
    snn_on_event on_event;
    snn_on_frame on_frame;
    void *context;
} snn_detector;

/* Start a stream; on_event may be NULL. */
void snn_init(snn_detector *detector, snn_on_event on_event, void *context);

/* Call on_frame for each frame, with the context of the events; NULL disables it. */
void snn_watch(snn_detector *detector, snn_on_frame on_frame);

/* Process n samples; on_event is called for their events before this returns. */
void snn_push(snn_detector *detector, const int16_t *samples, size_t n);

/* End the stream: process the padded last frame, report offsets of open sounds, reset. */
void snn_flush(snn_detector *detector);

/* Discard all state, open sounds included: the next sample is the first of a stream. */
void snn_reset(snn_detector *detector);

/* Return whether a neuron fired, from the spikes of its layer. The single stages are in snn_stages.h. */
int snn_fired(const uint32_t *spikes, size_t layer, size_t channel, size_t band);

#ifdef __cplusplus
}
#endif
#endif
