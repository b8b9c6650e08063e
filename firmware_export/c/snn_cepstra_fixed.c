/* The cepstra of a frame in integers.
 *
 * A frame is scaled up to 29 bits, so that quiet sound has the same resolution as loud sound; its transform
 * halves at every stage and cannot overflow. Energies have 64 bits; their logarithms have SNN_LOG_BITS
 * fraction bits.
 */
#include "snn_cepstra.h"

#if SNN_FIXED_FRONT_END

#include <string.h>

#define HALF (SNN_N_FFT / 2)
#define TWIDDLE_BITS 30
#define LOG_STEP_BITS 8

static int32_t rounded(int64_t value, int bits)
{
    return (int32_t)((value + ((int64_t)1 << (bits - 1))) >> bits);
}

static int top_bit(uint64_t value)
{
#if defined(__GNUC__)
    return 63 - __builtin_clzll(value);
#else
    int bit = 0;
    while (value >>= 1)
        bit++;
    return bit;
#endif
}

/* Window the frame into x, scaled up to 29 bits; set growth to the left shift and return whether any value is
 * not zero. */
static int windowed(const snn_mfcc *s, int32_t *x, int *growth)
{
    const size_t length = SNN_FRAME_LENGTH < SNN_N_FFT ? SNN_FRAME_LENGTH : SNN_N_FFT;
    uint32_t any = 0;
    size_t leading = 0;
    while (leading < length && s->pending[leading] == 0)
        leading++;
    if (leading == length)
        return 0;
    for (size_t i = 0; i < length; i++) {
        x[i] = rounded((int64_t)s->pending[i] * snn_window[i], TWIDDLE_BITS);
        any |= (uint32_t)(x[i] < 0 ? -x[i] : x[i]);
    }
    memset(x + length, 0, (SNN_N_FFT + 2 - length) * sizeof *x);
    if (!any)
        return 0;
    *growth = SNN_AMPLITUDE_BITS - 1 - top_bit(any);
    for (size_t i = 0; i < length; i++)
        x[i] = *growth >= 0 ? x[i] * (1 << *growth) : x[i] >> -*growth;
    return 1;
}

/* Apply the bit-reversal permutation to complex points, in place. */
static void reorder(int32_t *x, size_t points)
{
    size_t j = 0;
    for (size_t i = 0; i < points; i++) {
        if (i < j) {
            int32_t re = x[2 * i], im = x[2 * i + 1];
            x[2 * i] = x[2 * j];
            x[2 * i + 1] = x[2 * j + 1];
            x[2 * j] = re;
            x[2 * j + 1] = im;
        }
        size_t bit = points >> 1;
        while (bit && (j & bit)) {
            j ^= bit;
            bit >>= 1;
        }
        j |= bit;
    }
}

/* Halve the sums and differences at each stage: the transform is divided by HALF. */
static void transform(int32_t *x)
{
    reorder(x, HALF);
    for (size_t span = 1; span < HALF; span *= 2) {
        size_t stride = SNN_N_FFT / (2 * span); /* snn_twiddles[k] is exp(-2 pi i k / SNN_N_FFT) */
        for (size_t k = 0; k < span; k++) {
            int64_t wr = snn_twiddles[k * stride][0], wi = snn_twiddles[k * stride][1];
            for (size_t i = k; i < HALF; i += 2 * span) {
                int32_t *a = x + 2 * i, *b = x + 2 * (i + span);
                int32_t re = rounded(b[0] * wr - b[1] * wi, TWIDDLE_BITS);
                int32_t im = rounded(b[0] * wi + b[1] * wr, TWIDDLE_BITS);
                b[0] = (a[0] - re) >> 1;
                b[1] = (a[1] - im) >> 1;
                a[0] = (a[0] + re) >> 1;
                a[1] = (a[1] + im) >> 1;
            }
        }
    }
}

static uint64_t square(int32_t re, int32_t im)
{
    return (uint64_t)((int64_t)re * re) + (uint64_t)((int64_t)im * im);
}

/* Compute the powers of bins k and HALF - k of the frame from the transform of its pairs of samples. */
static void powers_of_pair(const int32_t *x, size_t k, uint64_t power[2])
{
    size_t m = HALF - k;
    int32_t ar = x[2 * k], ai = x[2 * k + 1], br = x[2 * m], bi = x[2 * m + 1];
    int32_t er = (ar + br) >> 1, ei = (ai - bi) >> 1; /* the even samples' spectrum */
    int32_t qr = (ai + bi) >> 1, qi = (br - ar) >> 1; /* the odd samples' */
    int64_t wr = snn_twiddles[k][0], wi = snn_twiddles[k][1];
    int32_t tr = rounded(qr * wr - qi * wi, TWIDDLE_BITS), ti = rounded(qr * wi + qi * wr, TWIDDLE_BITS);
    power[0] = square(er + tr, ei + ti);
    power[1] = square(er - tr, ei - ti);
}

/* Replace the transform by the powers of bins 0 .. HALF, low words before high words. */
static void power_spectrum(int32_t *x)
{
    int32_t even = x[0], odd = x[1];
    uint64_t power[2];
    for (size_t k = 1; k <= HALF / 2; k++) {
        powers_of_pair(x, k, power);
        memcpy(x + 2 * k, &power[0], sizeof power[0]);
        memcpy(x + 2 * (HALF - k), &power[1], sizeof power[1]);
    }
    power[0] = square(even + odd, 0);
    power[1] = square(even - odd, 0);
    memcpy(x, &power[0], sizeof power[0]);
    memcpy(x + 2 * HALF, &power[1], sizeof power[1]);
}

static uint64_t power_at(const int32_t *x, size_t bin)
{
    uint64_t power;
    memcpy(&power, x + 2 * bin, sizeof power);
    return power;
}

/* Return the natural logarithm of an energy that is not zero. */
static int32_t log_of(uint64_t energy)
{
    int top = top_bit(energy);
    uint32_t mantissa = (uint32_t)(energy << (63 - top) >> 32); /* its highest bit is set */
    size_t step = mantissa >> (31 - LOG_STEP_BITS) & ((1u << LOG_STEP_BITS) - 1u);
    int32_t part = (int32_t)(mantissa >> (15 - LOG_STEP_BITS) & 0xffffu);
    int32_t slope = snn_logs[step + 1] - snn_logs[step];
    return top * SNN_LN_2 + snn_logs[step] + (int32_t)((int64_t)slope * part >> 16);
}

/* The logarithm of what the energy is at full scale, not below the floor. */
static int32_t level_of(uint64_t energy, int growth)
{
    if (!energy)
        return SNN_LOG_OF_NOTHING;
    int32_t level = log_of(energy) + SNN_LOG_UNIT - 2 * growth * SNN_LN_2;
#if SNN_HAS_LOG_FLOOR
    return level > SNN_LOG_OF_NOTHING ? level : SNN_LOG_OF_NOTHING;
#else
    return level;
#endif
}

static uint64_t weighted(uint64_t power, uint32_t weight)
{
    return (power >> SNN_MEL_BITS) * weight + ((power & ((1u << SNN_MEL_BITS) - 1u)) * weight >> SNN_MEL_BITS);
}

void snn_cepstra(snn_mfcc *s, snn_cepstrum mfcc[SNN_N_MFCC])
{
    int32_t *x = s->work;
    int64_t sums[SNN_N_MFCC] = {0};
    int growth;
    if (!windowed(s, x, &growth)) { /* all zero: these cepstra are constants */
        memcpy(mfcc, snn_silence, sizeof snn_silence);
        return;
    }
    transform(x);
    power_spectrum(x);
    const uint16_t *weight = snn_mel_weights;
    for (size_t band = 0; band < SNN_N_MELS; band++) {
        uint64_t energy = 0;
        for (size_t i = 0; i < snn_mel_count[band]; i++)
            energy += weighted(power_at(x, snn_mel_first[band] + i), *weight++);
        int64_t log_mel = level_of(energy, growth);
        for (size_t k = 0; k < SNN_N_MFCC; k++)
            sums[k] += log_mel * snn_dct[band][k];
    }
    for (size_t k = 0; k < SNN_N_MFCC; k++)
        mfcc[k] = rounded(sums[k], SNN_LOG_BITS + SNN_DCT_BITS - SNN_CEPSTRUM_BITS);
#if SNN_APPEND_ENERGY
    uint64_t total = 0;
    for (size_t i = 0; i <= HALF; i++)
        total += power_at(x, i);
    mfcc[0] = rounded(level_of(total, growth), SNN_LOG_BITS - SNN_CEPSTRUM_BITS);
#endif
}

#else
typedef int snn_no_fixed_front_end;
#endif
