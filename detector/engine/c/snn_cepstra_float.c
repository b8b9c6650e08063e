/* The cepstra of a frame in floating point: in double precision, as in the runtime, or in single.
 *
 * In single precision, a band that is 90 dB or more below another one holds rounding errors, and a spike
 * may differ now and then.
 *
 * The spectrum of a real frame of n samples comes from a complex transform of n / 2 points (even samples real,
 * odd ones imaginary). Its passes are of radix 4; real and imaginary parts are stored apart, and so are the twiddle
 * factors of each pass, in the order in which they are read: compilers vectorise loops over neighbours.
 */
#include "snn_cepstra.h"

#if !SNN_FIXED_FRONT_END

#include <string.h>

#if SNN_CORE
#include "snn_log.h"
#define natural_logarithm snn_log
#else
#include <math.h>
#if SNN_SINGLE_FRONT_END
#define natural_logarithm logf
#else
#define natural_logarithm log
#endif
#endif

#define HALF (SNN_N_FFT / 2)

#define LENGTH (SNN_FRAME_LENGTH < SNN_N_FFT ? SNN_FRAME_LENGTH : SNN_N_FFT)
#define QUARTER (HALF / 4)
#define LANES 4 /* neighbours that a loop processes at once; divides all spans */

/* Return a windowed sample, 0 after the end of the frame; quarter is the quarter of the points that it is in. Where
 * sizes are known at run time only, frame and window are padded with zeros instead. */
static inline snn_real windowed(const snn_mfcc *s, size_t quarter, size_t i)
{
    return SNN_CORE || 2 * (quarter + 1) * QUARTER <= LENGTH || i < LENGTH ? s->pending[i] * snn_window[i] : 0;
}

/* The first pass reads the samples in bit-reversed order, so that all others work in place; its factors are 1. */
static void transform_fours(const snn_mfcc *s, snn_real *restrict re, snn_real *restrict im)
{
    for (size_t i = 0; i < QUARTER; i++) {
        const size_t a = 2 * (size_t)snn_bit_reversal[i], b = a + 4 * QUARTER, c = a + 2 * QUARTER, d = a + 6 * QUARTER;
        snn_real ar = windowed(s, 0, a), ai = windowed(s, 0, a + 1);
        snn_real br = windowed(s, 2, b), bi = windowed(s, 2, b + 1);
        snn_real cr = windowed(s, 1, c), ci = windowed(s, 1, c + 1);
        snn_real dr = windowed(s, 3, d), di = windowed(s, 3, d + 1);
        snn_real sr = ar + br, si = ai + bi, tr = ar - br, ti = ai - bi;
        snn_real ur = cr + dr, ui = ci + di, vr = cr - dr, vi = ci - di;
        re[4 * i] = sr + ur;
        im[4 * i] = si + ui;
        re[4 * i + 1] = tr + vi;
        im[4 * i + 1] = ti - vr;
        re[4 * i + 2] = sr - ur;
        im[4 * i + 2] = si - ui;
        re[4 * i + 3] = tr - vi;
        im[4 * i + 3] = ti + vr;
    }
}

/* Combine four neighbouring transforms of span points into one. */
static void join_four(snn_real *restrict ar, snn_real *restrict ai, snn_real *restrict br, snn_real *restrict bi,
                      snn_real *restrict cr, snn_real *restrict ci, snn_real *restrict dr, snn_real *restrict di,
                      const snn_real *restrict twiddles, size_t span)
{
    for (size_t at = 0; at < span; at += LANES)
        for (size_t k = at; k < at + LANES; k++) {
            const snn_real *w = twiddles + k;
            snn_real cwr = cr[k] * w[0] - ci[k] * w[span], cwi = cr[k] * w[span] + ci[k] * w[0];
            snn_real bwr = br[k] * w[2 * span] - bi[k] * w[3 * span], bwi = br[k] * w[3 * span] + bi[k] * w[2 * span];
            snn_real dwr = dr[k] * w[4 * span] - di[k] * w[5 * span], dwi = dr[k] * w[5 * span] + di[k] * w[4 * span];
            snn_real sr = ar[k] + bwr, si = ai[k] + bwi, tr = ar[k] - bwr, ti = ai[k] - bwi;
            snn_real ur = cwr + dwr, ui = cwi + dwi, vr = cwr - dwr, vi = cwi - dwi;
            ar[k] = sr + ur;
            ai[k] = si + ui;
            br[k] = tr + vi;
            bi[k] = ti - vr;
            cr[k] = sr - ur;
            ci[k] = si - ui;
            dr[k] = tr - vi;
            di[k] = ti + vr;
        }
}

static void join_two(snn_real *restrict ar, snn_real *restrict ai, snn_real *restrict br, snn_real *restrict bi,
                     const snn_real *restrict twiddles, size_t span)
{
    for (size_t at = 0; at < span; at += LANES)
        for (size_t k = at; k < at + LANES; k++) {
            const snn_real *w = twiddles + k;
            snn_real wr = br[k] * w[0] - bi[k] * w[span], wi = br[k] * w[span] + bi[k] * w[0];
            br[k] = ar[k] - wr;
            bi[k] = ai[k] - wi;
            ar[k] += wr;
            ai[k] += wi;
        }
}

static void transform(const snn_mfcc *s, snn_real *re, snn_real *im)
{
    const snn_real *twiddles = snn_pass_twiddles;
    size_t span = 4;
    transform_fours(s, re, im);
    for (; 4 * span <= HALF; twiddles += 6 * span, span *= 4)
        for (size_t i = 0; i < HALF; i += 4 * span) {
            snn_real *a = re + i, *b = im + i;
            join_four(a, b, a + span, b + span, a + 2 * span, b + 2 * span, a + 3 * span, b + 3 * span, twiddles, span);
        }
    if (span < HALF)
        join_two(re, im, re + span, im + span, twiddles, span);
}

/* Replace the real parts of points k and HALF - k by the powers of these bins of the frame. */
static inline void powers_of_pair(const snn_real *twiddles, snn_real *restrict low_re, const snn_real *restrict low_im,
                                  snn_real *restrict high_re, const snn_real *restrict high_im, ptrdiff_t k,
                                  ptrdiff_t quarter)
{
    snn_real ar = low_re[k], ai = low_im[k], br = high_re[-k], bi = high_im[-k];
    snn_real er = SNN_REAL(0.5) * (ar + br), ei = SNN_REAL(0.5) * (ai - bi); /* the even samples' spectrum */
    snn_real qr = SNN_REAL(0.5) * (ai + bi), qi = SNN_REAL(0.5) * (br - ar); /* the odd samples' */
    snn_real wr = twiddles[k], wi = twiddles[quarter + k];
    snn_real tr = qr * wr - qi * wi, ti = qr * wi + qi * wr;
    snn_real lr = er + tr, li = ei + ti, hr = er - tr, hi = ei - ti;
    low_re[k] = lr * lr + li * li;
    high_re[-k] = hr * hr + hi * hi;
}

static void powers_of_pairs(const snn_mfcc *s, snn_real *restrict low_re, const snn_real *restrict low_im,
                            snn_real *restrict high_re, const snn_real *restrict high_im)
{
    const snn_real *twiddles = snn_split_twiddles;
    const ptrdiff_t quarter = (ptrdiff_t)(HALF / 2);
    ptrdiff_t at = 1;
    (void)s;
    for (; at + LANES <= quarter; at += LANES)
        for (ptrdiff_t k = at; k < at + LANES; k++)
            powers_of_pair(twiddles, low_re, low_im, high_re, high_im, k, quarter);
    for (; at < quarter; at++)
        powers_of_pair(twiddles, low_re, low_im, high_re, high_im, at, quarter);
}

/* Replace the transform's real parts and its first imaginary part by the powers of bins 0 .. HALF. */
static void power_spectrum(const snn_mfcc *s, snn_real *re, snn_real *im)
{
    snn_real even = re[0], odd = im[0], mr = re[HALF / 2], mi = im[HALF / 2];
    powers_of_pairs(s, re, im, re + HALF, im + HALF);
    re[0] = (even + odd) * (even + odd);
    re[HALF / 2] = mr * mr + mi * mi;
    re[HALF] = (even - odd) * (even - odd);
}

static inline snn_real log_of(const snn_mfcc *s, snn_real energy)
{
    const snn_real least = SNN_HAS_LOG_FLOOR ? SNN_LOG_FLOOR : 0;
    const snn_real floor = SNN_HAS_LOG_FLOOR ? SNN_LOG_FLOOR : SNN_REAL(2.220446049250313e-16);
    (void)s;
    return natural_logarithm(energy > least ? energy : floor);
}

static snn_cepstrum cepstrum(snn_real value)
{
#if SNN_INT8
    return (int32_t)(value * (snn_real)(1 << SNN_CEPSTRUM_BITS) + (value < 0 ? SNN_REAL(-0.5) : SNN_REAL(0.5)));
#else
    return (float)value;
#endif
}

/* The bits of a number, to look at many without comparisons. */
#if SNN_SINGLE_FRONT_END
typedef uint32_t real_bits;
#else
typedef uint64_t real_bits;
#endif

static int is_silent(const snn_mfcc *s)
{
    real_bits sounding = 0, bits;
    if (SNN_IS_ZERO)
        return 1;
    for (size_t at = LENGTH; at && !sounding;) { /* many at once from the last one on, which sounds unless all do not */
        const size_t end = at, begin = at > 8 * LANES ? at - 8 * LANES : 0;
        for (size_t i = begin; i < end; i++) {
            memcpy(&bits, s->pending + i, sizeof bits);
            sounding |= bits << 1; /* without the sign */
        }
        at = begin;
    }
    return !sounding;
}

/* Four independent sums, so that no addition waits for the one before. */
static snn_real weighted_sum(const snn_real *restrict power, const snn_real *restrict weight, size_t n)
{
    snn_real sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            sums[k] += power[i + k] * weight[i + k];
    for (; i < n; i++)
        sums[0] += power[i] * weight[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Each step is a loop of its own where it is over all bands, for the vectors; the order of the sums is that of a loop
 * over bands. */
static void cepstra_of_powers(snn_mfcc *s, const snn_real *power, snn_cepstrum mfcc[SNN_N_MFCC])
{
    snn_real sums[SNN_N_MFCC];
    snn_real *log_mel = s->work + SNN_LOG_MEL;
    const snn_real *weight = snn_mel_weights, *row = snn_dct;
    for (size_t band = 0; band < SNN_N_MELS; weight += snn_mel_count[band++])
        log_mel[band] = weighted_sum(power + snn_mel_first[band], weight, snn_mel_count[band]);
    for (size_t band = 0; band < SNN_N_MELS; band++)
        log_mel[band] = log_of(s, log_mel[band]);
    memset(sums, 0, sizeof sums);
    for (size_t band = 0; band < SNN_N_MELS; band++, row += SNN_N_MFCC)
        for (size_t k = 0; k < SNN_N_MFCC; k++)
            sums[k] += log_mel[band] * row[k];
    if (SNN_APPEND_ENERGY) {
        snn_real total = 0;
        for (size_t i = 0; i <= HALF; i++)
            total += power[i];
        sums[0] = log_of(s, total / (snn_real)SNN_N_FFT);
    }
    for (size_t k = 0; k < SNN_N_MFCC; k++)
        mfcc[k] = cepstrum(sums[k]);
}

SNN_STAGE void snn_cepstra(snn_mfcc *s, snn_cepstrum mfcc[SNN_N_MFCC])
{
    snn_real *power = s->work;
    if (is_silent(s)) {
#if SNN_CORE
        s->is_zero = SNN_FRAME_LENGTH <= SNN_N_FFT; /* what is behind the transform has not been looked at */
        memcpy(mfcc, s->model->silence, SNN_N_MFCC * sizeof *mfcc);
        return;
#else
        memset(power, 0, (HALF + 1) * sizeof *power); /* the powers of zeros are zeros */
#endif
    } else {
        transform(s, power, power + HALF);
        power_spectrum(s, power, power + HALF);
    }
    cepstra_of_powers(s, power, mfcc);
}

#else
typedef int snn_no_float_front_end;
#endif
