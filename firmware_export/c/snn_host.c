/* The detector as a program: raw 16-bit samples on standard input, JSON lines on standard output.
 *
 *     sox sound.wav -t raw -r 16000 -c 1 -e signed -b 16 - | ./snn_host
 *     ./snn_host --probe features|encoded|spikes|scores      each frame's values in binary
 *     ./snn_host --frames                                    binary cepstra instead of samples
 */
#include <stdio.h>
#include <string.h>

#include "snn_print.h"

#define BLOCK 400

static snn_detector detector;

static void print_event(void *context, const snn_event *event)
{
    snn_line line = {0};
    (void)context;
    snn_put_event(&line, event);
    fwrite(line.text, 1, line.length, stdout);
    fflush(stdout);
}

static void write_features(void *context, const snn_probe *p)
{
    (void)context;
    fwrite(p->mfcc, sizeof *p->mfcc, SNN_N_MFCC, stdout);
}

static void write_encoded(void *context, const snn_probe *p)
{
    (void)context;
    fwrite(p->encoded, 1, SNN_PLANES * SNN_N_MFCC, stdout);
}

/* One byte per neuron, layer by layer, channel by channel. */
static void write_spikes(void *context, const snn_probe *p)
{
    (void)context;
    for (size_t i = 0; i <= SNN_CONVS; i++) {
        const snn_layer *l = &snn_layers[i];
        for (size_t c = 0; c < l->out_channels; c++)
            for (size_t w = 0; w < l->out_width; w++)
                putchar(snn_fired(p->spikes[i], i, c, w));
    }
}

static void write_scores(void *context, const snn_probe *p)
{
    (void)context;
    fwrite(p->scores, sizeof *p->scores, SNN_CLASSES, stdout);
}

static const struct {
    const char *name;
    snn_on_frame write;
} probes[] = {
    {"features", write_features}, {"encoded", write_encoded}, {"spikes", write_spikes}, {"scores", write_scores}};

static int run_on_samples(void)
{
    int16_t block[BLOCK];
    size_t n;
    while ((n = fread(block, sizeof *block, BLOCK, stdin)) > 0)
        snn_push(&detector, block, n);
    snn_flush(&detector);
    return ferror(stdin) ? 1 : 0;
}

/* Run only encoder and network, on cepstra from standard input. */
static int run_on_frames(snn_on_frame write)
{
    snn_cepstrum mfcc[SNN_N_MFCC];
    uint8_t spikes[SNN_PLANES][SNN_N_MFCC];
    snn_score scores[SNN_CLASSES];
    while (fread(mfcc, sizeof *mfcc, SNN_N_MFCC, stdin) == SNN_N_MFCC) {
        snn_probe p = {0};
        snn_encode(&detector.encoder, mfcc, spikes);
        snn_step(&detector.network, spikes, scores);
        p.mfcc = mfcc;
        p.encoded = spikes[0];
        p.scores = scores;
        for (size_t i = 0; i <= SNN_CONVS; i++)
            p.spikes[i] = snn_layer_spikes(&detector.network, i);
        write(NULL, &p);
    }
    return ferror(stdin) ? 1 : 0;
}

int main(int argc, char **argv)
{
    snn_on_frame write = NULL;
    int frames = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--frames")) {
            frames = 1;
        } else if (!strcmp(argv[i], "--probe") && i + 1 < argc) {
            i++;
            for (size_t k = 0; k < sizeof probes / sizeof *probes; k++)
                if (!strcmp(argv[i], probes[k].name))
                    write = probes[k].write;
        } else {
            fprintf(stderr, "usage: snn_host [--probe features|encoded|spikes|scores] [--frames] < samples\n");
            return 2;
        }
    }
    snn_init(&detector, write ? NULL : print_event, NULL);
    snn_watch(&detector, write);
    return frames ? run_on_frames(write ? write : write_scores) : run_on_samples();
}
