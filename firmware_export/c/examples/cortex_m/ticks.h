/* Time in ticks of SysTick, which every Cortex-M has.
 *
 * On a board a tick is a cycle of the core. Under QEMU with -icount shift=0 an instruction takes 1 ns and
 * the timer runs at 25 MHz, so that a tick is 40 instructions; ticks_of_loop checks that.
 */
#ifndef TICKS_H
#define TICKS_H

#include <stdint.h>

void ticks_start(void);
uint32_t ticks_now(void);

/* Return the ticks between two readings less than 2^24 ticks apart. */
uint32_t ticks_between(uint32_t from, uint32_t to);

/* Return the ticks of a loop of so many instructions, an even number. */
uint32_t ticks_of_loop(uint32_t instructions);

#endif
