/* Two models in one program: each is behind a function of a file of its own, compiled with MODEL as that function's
 * name and the model's header. Without MODEL, the program: samples of standard input go through both. */
#include <stdio.h>

#ifdef MODEL
#include "snn_print.h"

int MODEL(FILE *to, const int16_t *samples, size_t n);

static void print_event(void *context, const snn_event *event)
{
    snn_line line = {0};
    snn_put_event(&line, event);
    fwrite(line.text, 1, line.length, context);
}

/* Process samples, or, with n = 0, end the stream; return the bytes of the state. */
int MODEL(FILE *to, const int16_t *samples, size_t n)
{
    static snn_detector detector;
    static int has_begun;
    if (!has_begun)
        snn_init(&detector, print_event, to);
    has_begun = 1;
    if (n)
        snn_push(&detector, samples, n);
    else
        snn_flush(&detector);
    return (int)sizeof detector;
}
#else
#include <stdint.h>

int first(FILE *to, const int16_t *samples, size_t n);
int second(FILE *to, const int16_t *samples, size_t n);

int main(void)
{
    int16_t block[160];
    size_t n;
    do {
        n = fread(block, sizeof *block, 160, stdin);
        first(stdout, block, n);
        second(stderr, block, n);
    } while (n);
    return 0;
}
#endif
