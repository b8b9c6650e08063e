/* Samples come from a computer by the serial port, and a line of JSON for each onset and offset goes back:
 *
 *     stty -F /dev/ttyACM0 raw
 *     cat /dev/ttyACM0 & sox sound.wav -t raw -r 16000 -c 1 -e signed -b 16 - > /dev/ttyACM0
 *
 * For any board with the memory, to try the model before there is a microphone.
 */
#include <snn_detect.h>
#include <snn_print.h>

/* A block no longer than a hop completes at most one frame. */
static const size_t BLOCK = SNN_HOP_LENGTH;
static const size_t MAX_EVENTS = 2 * SNN_CLASSES;

static snn_detector detector;
static int16_t samples[BLOCK];
static snn_event events[MAX_EVENTS];
static size_t event_count;

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
    Serial.begin(921600);
    snn_init(&detector, on_event, NULL);
}

void loop()
{
    static size_t bytes;
    bytes += Serial.readBytes((char *)samples + bytes, sizeof samples - bytes);
    snn_push(&detector, samples, bytes / sizeof *samples);
    print_events();
    /* Half a sample waits for its other half. */
    memmove(samples, (char *)samples + (bytes & ~(size_t)1), bytes & 1);
    bytes &= 1;
}
