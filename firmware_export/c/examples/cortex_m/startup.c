/* From reset to main: the vector table, the floating-point unit, memory and the fault handler. */
#include <stdint.h>

#include "semihosting.h"
#include "stack.h"

#define CPACR (*(volatile uint32_t *)0xE000ED88u) /* access to coprocessors */
#define FPU_FULL (0xFu << 20)

int main(void);
void reset_handler(void) __attribute__((noreturn));

/* Section boundaries from the linker script. */
extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[];

static void prepare_memory(void)
{
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end; to++)
        *to = *from++;
    for (uint32_t *to = bss_start; to < bss_end; to++)
        *to = 0;
}

/* No floating-point register may be used before this. */
void reset_handler(void)
{
    CPACR |= FPU_FULL;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    stack_paint();
    prepare_memory();
    host_exit(main());
}

/* Print a line and end with a status of its own. */
static void fault_handler(void)
{
    static const char words[] = "fault: the core stopped the program\n";
    host_write(host_open(HOST_CONSOLE, HOST_APPEND), words, sizeof words - 1);
    host_exit(3);
}

typedef void (*vector)(void);

/* No interrupts are enabled; the sixteen of the core are enough. */
static const struct {
    uint32_t *stack;
    vector handlers[15];
} vectors __attribute__((section(".vectors"), used)) = {
    stack_top,
    {reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, 0, 0, 0, 0,
     fault_handler, fault_handler, 0, fault_handler, fault_handler}};
