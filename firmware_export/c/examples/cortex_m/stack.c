#include "stack.h"

#define PAINT 0xA5A5A5A5u

void stack_paint(void)
{
    /* Volatile, so that the compiler keeps the writes. */
    for (volatile uint32_t *word = stack_limit; word < (volatile uint32_t *)stack_pointer(); word++)
        *word = PAINT;
}

size_t stack_depth(const uint32_t *from)
{
    const volatile uint32_t *word = stack_limit;
    while (word < (const volatile uint32_t *)from && *word == PAINT)
        word++;
    return (size_t)((const uint8_t *)from - (const volatile uint8_t *)word);
}
