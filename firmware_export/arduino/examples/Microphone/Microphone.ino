/* The board's own microphone, by Arduino's PDM library; a line of JSON for each onset and offset on the serial port.
 *
 * The interrupt fills a ring of a quarter of a second, which the main loop empties. Where the loop is late, samples
 * are lost; what follows does not continue what came before, so that the stream is ended and begins again.
 */
#include <PDM.h>
#include <snn_detect.h>
#include <snn_print.h>

static const uint32_t RING = 4096; /* samples, a power of two */
static const size_t BLOCK = SNN_HOP_LENGTH;
static const size_t MAX_EVENTS = 3 * SNN_CLASSES; /* of a frame, and of the end of a stream */

static snn_detector detector;
static int16_t ring[RING];
static volatile uint32_t received;
static uint32_t taken;
static snn_event events[MAX_EVENTS];
static size_t event_count;

/* In an interrupt: copy and return. */
static void on_samples()
{
    static int16_t block[512];
    int available = PDM.available();
    int bytes = PDM.read(block, available < (int)sizeof block ? available : (int)sizeof block);
    uint32_t at = received;
    for (int i = 0; i < bytes / 2; i++)
        ring[at++ % RING] = block[i];
    received = at;
}

/* Called during a push: slow work waits until the push is over. */
static void on_event(void *, const snn_event *event)
{
    if (event_count < MAX_EVENTS)
        events[event_count++] = *event;
}

static void print_events()
{
    for (size_t i = 0; i < event_count; i++) {
        snn_line line = {};
        snn_put_event(&line, &events[i]);
        Serial.write((const uint8_t *)line.text, line.length);
    }
    event_count = 0;
}

void setup()
{
    Serial.begin(115200);
    snn_init(&detector, on_event, NULL);
    PDM.onReceive(on_samples);
    if (!PDM.begin(1, SNN_SAMPLE_RATE_HZ))
        Serial.println("the microphone does not start");
}

void loop()
{
    static int16_t block[BLOCK];
    uint32_t end = received;
    if (end - taken > RING) {
        snn_flush(&detector);
        taken = end;
        Serial.println("samples were lost: the loop is late");
    }
    size_t n = 0;
    while (n < BLOCK && taken != end)
        block[n++] = ring[taken++ % RING];
    snn_push(&detector, block, n);
    print_events();
}
