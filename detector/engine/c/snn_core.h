/* The detector as a shared library: a model as data, samples in, events and what each stage computed out.
 *
 * A model is immutable and shared by any number of streams; a stream belongs to one thread at a time. Events are in the
 * stream until its next push, flush or reset. Nothing is global.
 */
#ifndef SNN_CORE_H
#define SNN_CORE_H

#include <stddef.h>
#include <stdint.h>

#define SNN_CORE_ABI 2

typedef struct {
    int32_t in_channels, out_channels, out_width, frames, dilation, bands, stride, padding;
    const float *weight;                           /* [out_channels][in_channels][frames][bands] */
    const float *bias, *alpha, *offset, *beta;     /* [out_channels]; all but beta may be NULL */
} snn_core_layer;

/* All of a model; the arrays are copied. Front end and encoder have the sizes that their comments name. */
typedef struct {
    int32_t frame_length, hop_length, n_fft, n_mels, n_mfcc, mel_terms;
    int32_t has_log_floor, append_energy, send_on_delta, has_rest;
    int32_t thresholds, layers, classes;
    float keep;
    double preemphasis, log_floor;
    double largest_sample;          /* that a push takes */
    const double *window;           /* [frame_length] */
    const double *pass_twiddles;    /* [snn_core_twiddles(n_fft)] */
    const double *split_twiddles;   /* [2][n_fft / 4] */
    const double *dct;              /* [n_mels][n_mfcc] */
    const double *mel_weights;      /* [mel_terms]: of the first band, of the second, ... */
    const uint32_t *bit_reversal;   /* [n_fft / 8] */
    const uint32_t *mel_first;      /* [n_mels]: first bin of each band */
    const uint32_t *mel_count;      /* [n_mels] */
    const float *threshold;         /* [thresholds][n_mfcc] */
    const float *rest;              /* [n_mfcc] */
    const float *to_bands;          /* [n_mfcc][n_mels] */
    const snn_core_layer *layer;    /* [layers], the last one with out_width 1 */
    const float *readout_weight;    /* [classes][out_channels of the last layer] */
    const float *readout_bias, *readout_beta; /* [classes] */
} snn_core_spec;

typedef struct {
    float on_threshold, off_threshold;
    int32_t smoothing, min_on, min_off, refractory;
    int32_t leak, weight, bias; /* of evidence, see snn_evidence.h; weight is 0 where there is an average */
} snn_core_class;

typedef struct {
    int32_t is_offset, has_ended; /* of an offset: 0 where the stream ended before the sound */
    int32_t label;
    uint32_t index;
    int64_t onset_sample, offset_sample, emitted_sample; /* since the last reset */
    double score, peak, mean;
} snn_core_event;

/* Where the values of each frame go, frame after frame; any pointer may be NULL. */
typedef struct {
    float *frames;        /* [n_mfcc] */
    float *spikes;        /* [2 * thresholds][n_mfcc] */
    float **layers;       /* an array for each layer: [out_channels][out_width] */
    float *membranes;     /* [classes]: of the read-out */
    float *scores;        /* [classes] */
    double *means;        /* [classes] */
} snn_core_trace;

typedef struct snn_core_model snn_core_model;
typedef struct snn_core_stream snn_core_stream;

int snn_core_abi(void);

/* Return the instructions in use: "avx512", "avx2" or "baseline". */
const char *snn_core_instructions(void);

/* Return a model, or NULL and what is wrong with the spec in reason, of so many bytes at most. Pointers other than NULL
 * have to be valid for the sizes that the spec names; these are checked before anything is read, values before anything
 * is computed. */
snn_core_model *snn_core_model_new(const snn_core_spec *spec, char *reason, size_t bytes);
void snn_core_model_free(snn_core_model *model);

/* Return a stream with the classes' parameters, or NULL where they cannot be or memory is short. */
snn_core_stream *snn_core_stream_new(const snn_core_model *model, const snn_core_class *classes);
void snn_core_stream_free(snn_core_stream *stream);

/* Return the frames that so many further samples complete. */
size_t snn_core_frames_in(const snn_core_stream *stream, size_t samples);

/* Process samples; return the number of events, -1 where memory for them is short, or -2, with nothing processed, where
 * a sample is not a number or larger than the largest one. */
int64_t snn_core_push(snn_core_stream *stream, const float *samples, size_t n, const snn_core_trace *trace);

/* Process the padded last frame, if there is one; return the number of events. Open sounds stay open. */
int64_t snn_core_finish(snn_core_stream *stream, const snn_core_trace *trace);

/* Return the number of offsets of the open sounds; their last frame is the last one processed. */
int64_t snn_core_close(snn_core_stream *stream);

/* Take spikes [frames][2 * thresholds][n_mfcc], each 0 or 1, through the network alone: no samples and no events. */
void snn_core_step(snn_core_stream *stream, const float *spikes, size_t frames, const snn_core_trace *trace);

/* The events of the last call. */
const snn_core_event *snn_core_events(const snn_core_stream *stream);

/* The next sample is the first of a stream, the next onset has this index. */
void snn_core_reset(snn_core_stream *stream, uint32_t next_index);

/* The index of the next onset, and the frames processed since the reset. */
uint32_t snn_core_next_index(const snn_core_stream *stream);
int64_t snn_core_frames(const snn_core_stream *stream);

/* Return whether all of the network's state is finite. */
int snn_core_is_finite(const snn_core_stream *stream);

#endif
