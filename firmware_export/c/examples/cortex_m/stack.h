/* The deepest use of the stack: painted beforehand, searched afterwards. */
#ifndef STACK_H
#define STACK_H

#include <stddef.h>
#include <stdint.h>

extern uint32_t stack_limit[], stack_top[]; /* the linker's; it grows down from the top */

/* Paint the stack below the caller's frame. */
void stack_paint(void);

/* Return the bytes from an address down to the deepest overwritten word. */
size_t stack_depth(const uint32_t *from);

/* Return the caller's stack pointer. */
static inline uint32_t *stack_pointer(void)
{
    uint32_t *pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

#endif
