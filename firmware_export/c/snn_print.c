/* Events as text. Numbers are written digit by digit: the C library's printf needs a heap and, on small
 * cores, double precision in software, and this way every machine prints the same characters.
 */
#include "snn_print.h"

#include <string.h>

void snn_put_text(snn_line *l, const char *text)
{
    while (*text && l->length < SNN_LINE)
        l->text[l->length++] = *text++;
}

/* Append at least so many digits, with leading zeros. */
static void put_digits(snn_line *l, uint64_t value, size_t digits)
{
    char text[24];
    size_t at = sizeof text - 1;
    text[at] = '\0';
    while (value || sizeof text - 1 - at < digits) {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    }
    snn_put_text(l, text + at);
}

void snn_put_integer(snn_line *l, const char *name, int64_t value)
{
    snn_put_text(l, name);
    if (value < 0)
        snn_put_text(l, "-");
    put_digits(l, value < 0 ? (uint64_t)0 - (uint64_t)value : (uint64_t)value, 1);
}

/* Append a position in seconds, to the millisecond. */
static void put_seconds(snn_line *l, const char *name, int64_t sample)
{
    uint64_t ms = ((uint64_t)sample * 1000 + SNN_SAMPLE_RATE_HZ / 2) / SNN_SAMPLE_RATE_HZ;
    snn_put_integer(l, name, (int64_t)(ms / 1000));
    snn_put_text(l, ".");
    put_digits(l, ms % 1000, 3);
}

/* Return a number in [0, 1] in millionths, rounded half to even from its exact value, as printf does. */
static uint64_t millionths(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t exponent = bits >> 23;
    uint64_t product = (uint64_t)((bits & 0x7fffffu) | 0x800000u) * 1000000u;
    if (exponent < 127 - 30 || exponent > 127) /* rounds to zero; scores are at most 1 */
        return 0;
    unsigned shift = 150 - exponent;
    uint64_t whole = product >> shift, rest = product - (whole << shift), half = (uint64_t)1 << (shift - 1);
    return whole + (rest > half || (rest == half && (whole & 1)));
}

static void put_score(snn_line *l, const char *name, float value)
{
    uint64_t n = millionths(value);
    snn_put_integer(l, name, (int64_t)(n / 1000000));
    snn_put_text(l, ".");
    put_digits(l, n % 1000000, 6);
}

static void put_offset(snn_line *l, const snn_event *e)
{
    snn_put_integer(l, ",\"offset_sample\":", e->offset_sample);
    put_seconds(l, ",\"offset_s\":", e->offset_sample);
    put_score(l, ",\"peak\":", e->peak);
    put_score(l, ",\"mean\":", e->mean);
    snn_put_text(l, ",\"reason\":\"");
    snn_put_text(l, e->reason == SNN_ENDED ? "ended" : "end_of_stream");
    snn_put_text(l, "\"");
}

void snn_put_event(snn_line *l, const snn_event *e)
{
    snn_put_text(l, e->kind == SNN_ONSET ? "{\"type\":\"onset\"" : "{\"type\":\"offset\"");
    snn_put_integer(l, ",\"index\":", (int64_t)e->index);
    snn_put_text(l, ",\"label\":\"");
    snn_put_text(l, snn_labels[e->label]);
    snn_put_integer(l, "\",\"onset_sample\":", e->onset_sample);
    put_seconds(l, ",\"onset_s\":", e->onset_sample);
    snn_put_integer(l, ",\"emitted_sample\":", e->emitted_sample);
    put_score(l, ",\"score\":", e->score);
    if (e->kind == SNN_OFFSET)
        put_offset(l, e);
    snn_put_text(l, "}\n");
}
