/* Check that scores are printed as printf prints them: random ones, small ones, and ties between two decimals. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snn_print.h"

static void expect(float score, int64_t onset_sample)
{
    char wanted[400];
    snn_event e = {0};
    snn_line line = {0};
    e.score = score;
    e.onset_sample = onset_sample;
    e.emitted_sample = onset_sample + 7;
    e.index = UINT32_MAX;
    snn_put_event(&line, &e);
    int n = snprintf(wanted, sizeof wanted,
                     "{\"type\":\"onset\",\"index\":4294967295,\"label\":\"%s\",\"onset_sample\":%" PRId64
                     ",\"onset_s\":%.3f,\"emitted_sample\":%" PRId64 ",\"score\":%.6f}\n",
                     snn_labels[0], onset_sample, (double)onset_sample / SNN_SAMPLE_RATE_HZ, onset_sample + 7,
                     (double)score);
    if ((size_t)n != line.length || memcmp(wanted, line.text, line.length) != 0) {
        printf("%a: wanted %s", (double)score, wanted);
        exit(1);
    }
}

int main(void)
{
    uint32_t random = 1;
    for (int k = 0; k <= 65536; k++)
        expect((float)k / 65536.0f, (int64_t)k * 400);
    for (int k = 0; k < 200000; k++) {
        random = random * 1664525u + 1013904223u;
        expect((float)(random >> 8) / 16777216.0f, (int64_t)random * 400);
        expect((float)(random >> 8) / 16777216.0f / (float)(1u << k % 31), 0);
    }
    return 0;
}
