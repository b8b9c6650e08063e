/* The cepstra of a frame in floating point: in double precision, as the runtime's, or in single.
 *
 * In single precision, where one band is louder than another by 90 dB and more, the quiet one holds
 * rounding errors, and now and then a spike falls otherwise.
 *
 * The spectrum of a real frame of n samples comes from a complex transform of n / 2 points (even
 * samples real, odd ones imaginary), iterative, radix 2, in place.
 */
#include "snn_cepstra.h"

#if !SNN_FIXED_FRONT_END

#include <math.h>
#include <string.h>

#define HALF (SNN_N_FFT / 2)

#if SNN_SINGLE_FRONT_END
#define natural_logarithm logf
#else
#define natural_logarithm log
#endif

static void transform(snn_real *x)
{
    snn_reorder(x, HALF);
    for (size_t span = 1; span < HALF; span *= 2) {
        size_t stride = SNN_N_FFT / (2 * span); /* snn_turns[k] is exp(-2 pi i k / SNN_N_FFT) */
        for (size_t k = 0; k < span; k++) {
            snn_real wr = snn_turns[k * stride][0], wi = snn_turns[k * stride][1];
            for (size_t i = k; i < HALF; i += 2 * span) {
                snn_real *a = x + 2 * i, *b = x + 2 * (i + span);
                snn_real re = b[0] * wr - b[1] * wi, im = b[0] * wi + b[1] * wr;
                b[0] = a[0] - re;
                b[1] = a[1] - im;
                a[0] += re;
                a[1] += im;
            }
        }
    }
}

/* Put the squared magnitudes of bins 0 .. HALF in the place of the half-length transform. */
static void power_spectrum(snn_real *x)
{
    snn_real even = x[0], odd = x[1];
    for (size_t k = 1; k <= HALF / 2; k++) {
        size_t m = HALF - k;
        snn_real ar = x[2 * k], ai = x[2 * k + 1], br = x[2 * m], bi = x[2 * m + 1];
        snn_real er = SNN_REAL(0.5) * (ar + br), ei = SNN_REAL(0.5) * (ai - bi); /* the even samples' spectrum */
        snn_real qr = SNN_REAL(0.5) * (ai + bi), qi = SNN_REAL(0.5) * (br - ar); /* the odd samples' */
        snn_real wr = snn_turns[k][0], wi = snn_turns[k][1];
        snn_real tr = qr * wr - qi * wi, ti = qr * wi + qi * wr;
        snn_real lr = er + tr, li = ei + ti, hr = er - tr, hi = ei - ti;
        x[2 * k] = lr * lr + li * li;
        x[2 * m] = hr * hr + hi * hi;
    }
    x[0] = (even + odd) * (even + odd);
    x[2 * HALF] = (even - odd) * (even - odd);
}

static snn_real log_of(snn_real energy)
{
#if SNN_HAS_LOG_FLOOR
    return natural_logarithm(energy > SNN_LOG_FLOOR ? energy : SNN_LOG_FLOOR);
#else
    return natural_logarithm(energy > 0 ? energy : SNN_REAL(2.220446049250313e-16));
#endif
}

static snn_cepstrum cepstrum(snn_real value)
{
#if SNN_INT8
    return (int32_t)(value * (snn_real)(1 << SNN_CEPSTRUM_BITS) + (value < 0 ? SNN_REAL(-0.5) : SNN_REAL(0.5)));
#else
    return (float)value;
#endif
}

void snn_cepstra(snn_mfcc *s, snn_cepstrum mfcc[SNN_N_MFCC])
{
    snn_real *x = s->work, sums[SNN_N_MFCC] = {0};
    size_t length = SNN_FRAME_LENGTH < SNN_N_FFT ? SNN_FRAME_LENGTH : SNN_N_FFT;
    int any = 0;
    for (size_t i = 0; i < length; i++) {
        x[i] = s->pending[i] * snn_window[i];
        any |= x[i] < 0 || x[i] > 0;
    }
    memset(x + length, 0, (SNN_N_FFT + 2 - length) * sizeof *x);
    if (any) { /* the powers of zeros are zeros */
        transform(x);
        power_spectrum(x);
    }
    const snn_real *weight = snn_mel_weights;
    for (size_t band = 0; band < SNN_N_MELS; band++) {
        snn_real energy = 0;
        size_t first = snn_mel_first[band];
        for (size_t i = 0; i < snn_mel_count[band]; i++)
            energy += x[2 * (first + i)] * *weight++;
        snn_real log_mel = log_of(energy);
        for (size_t k = 0; k < SNN_N_MFCC; k++)
            sums[k] += log_mel * snn_dct[band][k];
    }
#if SNN_APPEND_ENERGY
    snn_real total = 0;
    for (size_t i = 0; i <= HALF; i++)
        total += x[2 * i];
    sums[0] = log_of(total / (snn_real)SNN_N_FFT);
#endif
    for (size_t k = 0; k < SNN_N_MFCC; k++)
        mfcc[k] = cepstrum(sums[k]);
}

#else
typedef int snn_no_float_front_end;
#endif
