/* Incremental mel-frequency cepstral coefficients, in single precision.
 *
 * The spectrum of a real frame of n samples comes from a complex transform of n / 2 points (even
 * samples real, odd ones imaginary), iterative, radix 2, in place.
 */
#include "snn_detect.h"

#include <math.h>
#include <string.h>

#define HALF (SNN_N_FFT / 2)

void snn_mfcc_reset(snn_mfcc *s)
{
    s->count = 0;
    s->skip = 0;
    s->previous = 0.0f;
    s->seen = 0;
    s->frames = 0;
}

/* Exchange each point with the one whose number has its bits in the opposite order. */
static void reorder(float *x)
{
    size_t j = 0;
    for (size_t i = 0; i < HALF; i++) {
        if (i < j) {
            float re = x[2 * i], im = x[2 * i + 1];
            x[2 * i] = x[2 * j];
            x[2 * i + 1] = x[2 * j + 1];
            x[2 * j] = re;
            x[2 * j + 1] = im;
        }
        size_t bit = HALF >> 1;
        while (bit && (j & bit)) {
            j ^= bit;
            bit >>= 1;
        }
        j |= bit;
    }
}

static void transform(float *x)
{
    reorder(x);
    for (size_t span = 1; span < HALF; span *= 2) {
        size_t stride = SNN_N_FFT / (2 * span); /* snn_turns[k] is exp(-2 pi i k / SNN_N_FFT) */
        for (size_t k = 0; k < span; k++) {
            float wr = snn_turns[k * stride][0], wi = snn_turns[k * stride][1];
            for (size_t i = k; i < HALF; i += 2 * span) {
                float *a = x + 2 * i, *b = x + 2 * (i + span);
                float re = b[0] * wr - b[1] * wi, im = b[0] * wi + b[1] * wr;
                b[0] = a[0] - re;
                b[1] = a[1] - im;
                a[0] += re;
                a[1] += im;
            }
        }
    }
}

/* Put the squared magnitudes of bins 0 .. HALF in the place of the half-length transform. */
static void power_spectrum(float *x)
{
    float even = x[0], odd = x[1];
    for (size_t k = 1; k <= HALF / 2; k++) {
        size_t m = HALF - k;
        float ar = x[2 * k], ai = x[2 * k + 1], br = x[2 * m], bi = x[2 * m + 1];
        float er = 0.5f * (ar + br), ei = 0.5f * (ai - bi); /* the even samples' spectrum */
        float qr = 0.5f * (ai + bi), qi = 0.5f * (br - ar); /* the odd samples' */
        float wr = snn_turns[k][0], wi = snn_turns[k][1];
        float tr = qr * wr - qi * wi, ti = qr * wi + qi * wr;
        float lr = er + tr, li = ei + ti, hr = er - tr, hi = ei - ti;
        x[2 * k] = lr * lr + li * li;
        x[2 * m] = hr * hr + hi * hi;
    }
    x[0] = (even + odd) * (even + odd);
    x[2 * HALF] = (even - odd) * (even - odd);
}

static float log_of(float energy)
{
#if SNN_HAS_LOG_FLOOR
    return logf(energy > SNN_LOG_FLOOR ? energy : SNN_LOG_FLOOR);
#else
    return logf(energy > 0.0f ? energy : 2.220446049250313e-16f);
#endif
}

static void cepstra(snn_mfcc *s, float mfcc[SNN_N_MFCC])
{
    float *x = s->work;
    size_t length = SNN_FRAME_LENGTH < SNN_N_FFT ? SNN_FRAME_LENGTH : SNN_N_FFT;
    for (size_t i = 0; i < length; i++)
        x[i] = s->pending[i] * snn_window[i];
    memset(x + length, 0, (SNN_N_FFT + 2 - length) * sizeof *x);
    transform(x);
    power_spectrum(x);
    for (size_t k = 0; k < SNN_N_MFCC; k++)
        mfcc[k] = 0.0f;
    const float *weight = snn_mel_weights;
    for (size_t band = 0; band < SNN_N_MELS; band++) {
        float energy = 0.0f;
        size_t first = snn_mel_first[band];
        for (size_t i = 0; i < snn_mel_count[band]; i++)
            energy += x[2 * (first + i)] * *weight++;
        float log_mel = log_of(energy);
        for (size_t k = 0; k < SNN_N_MFCC; k++)
            mfcc[k] += log_mel * snn_dct[band][k];
    }
#if SNN_APPEND_ENERGY
    float total = 0.0f;
    for (size_t i = 0; i <= HALF; i++)
        total += x[2 * i];
    mfcc[0] = log_of(total / (float)SNN_N_FFT);
#endif
}

static void advance(snn_mfcc *s)
{
    s->frames++;
#if SNN_HOP_LENGTH < SNN_FRAME_LENGTH
    s->count = SNN_FRAME_LENGTH - SNN_HOP_LENGTH;
    memmove(s->pending, s->pending + SNN_HOP_LENGTH, s->count * sizeof *s->pending);
#else
    s->count = 0;
    s->skip = SNN_HOP_LENGTH - SNN_FRAME_LENGTH;
#endif
}

/* Take samples up to the end of the next frame; return how many were taken. */
size_t snn_mfcc_push(snn_mfcc *s, const int16_t *samples, size_t n, float mfcc[SNN_N_MFCC], int *has_frame)
{
    size_t taken = 0;
    *has_frame = 0;
    while (taken < n) {
        float sample = (float)samples[taken++] * (1.0f / 32768.0f);
        float emphasised = sample - SNN_PREEMPHASIS * s->previous;
        s->previous = sample;
        s->seen++;
        if (s->skip) {
            s->skip--;
            continue;
        }
        s->pending[s->count++] = emphasised;
        if (s->count == SNN_FRAME_LENGTH) {
            cepstra(s, mfcc);
            advance(s);
            *has_frame = 1;
            break;
        }
    }
    return taken;
}

/* End the stream; return whether its padded last frame has become cepstra. */
int snn_mfcc_flush(snn_mfcc *s, float mfcc[SNN_N_MFCC])
{
    int64_t beyond = s->seen > SNN_FRAME_LENGTH ? s->seen - SNN_FRAME_LENGTH : 0;
    int64_t frames = s->seen ? 1 + (beyond + SNN_HOP_LENGTH - 1) / SNN_HOP_LENGTH : 0;
    int is_missing = frames > s->frames;
    if (is_missing) {
        memset(s->pending + s->count, 0, (SNN_FRAME_LENGTH - s->count) * sizeof *s->pending);
        cepstra(s, mfcc);
    }
    snn_mfcc_reset(s);
    return is_missing;
}
