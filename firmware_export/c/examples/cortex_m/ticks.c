#include "ticks.h"

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define ENABLE 1u
#define CORE_CLOCK 4u
#define MAX_TICKS 0xFFFFFFu /* it has 24 bits */

void ticks_start(void)
{
    SYST_RVR = MAX_TICKS;
    SYST_CVR = 0;
    SYST_CSR = ENABLE | CORE_CLOCK;
}

uint32_t ticks_now(void)
{
    return MAX_TICKS - SYST_CVR; /* it counts down */
}

uint32_t ticks_between(uint32_t from, uint32_t to)
{
    return (to - from) & MAX_TICKS;
}

uint32_t ticks_of_loop(uint32_t instructions)
{
    uint32_t left = instructions / 2, from = ticks_now();
    __asm__ volatile("1: subs %0, %0, #1\n\tbne 1b" : "+r"(left) : : "cc");
    return ticks_between(from, ticks_now());
}
