/* Samples of standard input in chunks of random lengths, each in its own allocation; events to standard output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snn_print.h"

static void print_event(void *context, const snn_event *event)
{
    snn_line line = {0};
    (void)context;
    snn_put_event(&line, event);
    fwrite(line.text, 1, line.length, stdout);
}

static size_t random_length(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 28) ? (*seed >> 8) % 1500 : (*seed >> 8) % 3; /* sometimes 0, 1 or 2 */
}

int main(int argc, char **argv)
{
    unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    snn_detector *detector = malloc(sizeof *detector);
    int is_at_end = 0;
    if (!detector)
        return 1;
    memset(detector, 0xa5, sizeof *detector);
    snn_init(detector, print_event, NULL);
    while (!is_at_end) {
        size_t n = random_length(&seed);
        int16_t *chunk = malloc(n * sizeof *chunk + 1);
        if (!chunk)
            return 1;
        size_t got = fread(chunk, sizeof *chunk, n, stdin);
        snn_push(detector, chunk, got);
        is_at_end = got < n;
        free(chunk);
    }
    snn_flush(detector);
    free(detector);
    return 0;
}
