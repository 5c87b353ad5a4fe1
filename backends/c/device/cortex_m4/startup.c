/* The least that a Cortex-M4 or M55 needs to run main_test.c under a debugger or emulator (semihosting):

       arm-none-eabi-gcc -std=c99 -mcpu=cortex-m4 -mthumb -O2 --specs=rdimon.specs -nostartfiles \
           -T cortex_m4/mps2_an386.ld cortex_m4/startup.c main_test.c -o main_test.elf
       qemu-system-arm -M mps2-an386 -nographic -monitor none -semihosting -kernel main_test.elf

   For a Cortex-M55: -mcpu=cortex-m55 -mfloat-abi=hard, -T cortex_m55/mps3_an547.ld, -M mps3-an547. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern uint8_t data_at_rest[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
extern void initialise_monitor_handles(void);
extern int main(void);

void reset(void);
void _fini(void);

void _fini(void) /* exit() calls it behind the destructors */
{
}

static void stop(void)
{
    exit(2);
}

void reset(void)
{
#ifdef __ARM_FP
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: floating point and vectors are on */
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    memcpy(data_start, data_at_rest, (size_t)(data_end - data_start));
    memset(bss_start, 0, (size_t)(bss_end - bss_start));
    initialise_monitor_handles();
    exit(main());
}

union vector {
    void *stack;
    void (*handler)(void);
};

/* Stack, reset, and the faults, all of which end the test. */
__attribute__((section(".vectors"), used)) static const union vector vectors[16] = {
    {.stack = stack_top}, {.handler = reset}, {.handler = stop}, {.handler = stop},
    {.handler = stop}, {.handler = stop}, {.handler = stop},
};
