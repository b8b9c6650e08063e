/* Two models and several threads, for ThreadSanitizer: each thread has streams of its own, of both models, and the
 * outputs have to be those of one thread alone. Models and samples are those of the fuzz target, of fixed inputs. */
#include "fuzz_core.c"

#include <pthread.h>

#define MODELS 2
#define THREADS 6
#define ROUNDS 12
#define BYTES 400

typedef struct {
    input in;
    snn_core_spec spec;
    snn_core_layer layers[4];
    snn_core_model *model;
    uint8_t bytes[BYTES];
} made_model;

static made_model models[MODELS];
static uint64_t expected[MODELS];

/* Make a model of the first input from a number on that has two layers or more and all sizes as usual. */
static uint32_t make_model(made_model *made, uint32_t number)
{
    for (;; number++) {
        input seed = {.random = number};
        memset(made, 0, sizeof *made);
        for (size_t i = 0; i < BYTES; i++)
            made->bytes[i] = (uint8_t)(next_random(&seed) >> 8 & 127);
        made->in = (input){.data = made->bytes, .size = BYTES, .random = number};
        make_front_end(&made->in, &made->spec);
        make_encoder(&made->in, &made->spec);
        make_network(&made->in, &made->spec, made->layers, 3);
        made->model = made->in.is_odd ? NULL : snn_core_model_new(&made->spec, NULL, 0);
        if (made->model)
            return number + 1;
        while (made->in.count)
            free(made->in.arrays[--made->in.count]);
    }
}

/* Return a hash of all that a stream gives for some sound in pieces. */
static uint64_t hash_of(const made_model *made)
{
    const snn_core_class class = {0.5f, 0.4f, 2, 1, 1, 0, 0, 0, 0};
    snn_core_class classes[8];
    float samples[200], *scores = malloc(201 * (size_t)made->spec.classes * sizeof *scores);
    input sound = {.random = 7};
    uint64_t hash = 0;
    for (size_t c = 0; c < 8; c++)
        classes[c] = class;
    snn_core_stream *stream = snn_core_stream_new(made->model, classes);
    CHECK(scores && stream);
    for (size_t piece = 0; piece < 40; piece++) {
        for (size_t i = 0; i < 200; i++)
            samples[i] = piece % 5 ? (float)(next_random(&sound) % 257) / 128 - 1 : 0;
        const snn_core_trace trace = {.scores = scores};
        const size_t values = snn_core_frames_in(stream, 200) * (size_t)made->spec.classes;
        CHECK(snn_core_push(stream, samples, 200, &trace) >= 0);
        for (size_t i = 0; i < values; i++) {
            uint32_t bits;
            memcpy(&bits, &scores[i], sizeof bits);
            hash = (hash ^ bits) * 0x100000001b3u;
        }
    }
    hash += (uint64_t)snn_core_close(stream);
    snn_core_stream_free(stream);
    free(scores);
    return hash;
}

static void *work(void *argument)
{
    const size_t number = *(const size_t *)argument;
    for (size_t round = 0; round < ROUNDS; round++) {
        const size_t i = (number + round) % MODELS;
        CHECK(hash_of(&models[i]) == expected[i]);
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    size_t numbers[THREADS];
    uint32_t number = 1;
    for (size_t i = 0; i < MODELS; i++) {
        number = make_model(&models[i], number);
        expected[i] = hash_of(&models[i]);
    }
    CHECK(expected[0] != expected[1]);
    for (size_t i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (size_t i = 0; i < MODELS; i++) {
        snn_core_model_free(models[i].model);
        while (models[i].in.count)
            free(models[i].in.arrays[--models[i].in.count]);
    }
    puts("same bits in all threads");
    return 0;
}
