/* Replays the golden vectors of this artifact: every quantized tensor of every sample, and the logits, bit by bit.

       cc -std=c99 -O2 main_test.c -o main_test && ./main_test

   Prints PASS or FAIL as its last line and returns 0 or 1. With -DGOLDEN_SAMPLES=1 one sample is replayed, and golden.h
   takes that much less flash. Not part of a firmware. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "golden.h"

/* GOLDEN_SAMPLES is one of those that there are. */
typedef char samples_are_there[GOLDEN_SAMPLES >= 1 &&
                               GOLDEN_SAMPLES <= sizeof golden_tensors[0].checksums / sizeof(uint32_t) ? 1 : -1];

static uint32_t sample, tensors_seen, differing;

/* The order counts, and no change of a single code can leave the sum as it is: the factor is odd. */
static uint32_t checksum(const uint8_t *codes, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum = sum * GOLDEN_FACTOR + codes[i];
    }
    return sum;
}

static void check(uint32_t tensor, const uint8_t *codes, uint32_t count)
{
    if (golden_tensors[tensor].name == NULL) {
        return; /* codes on their way, not a quantized tensor of the network */
    }
    tensors_seen++;
    if (checksum(codes, count) != golden_tensors[tensor].checksums[sample]) {
        differing++;
        printf("sample %lu: %s differs\n", (unsigned long)sample, golden_tensors[tensor].name);
    }
}

#define ISOBIT_TRACE(tensor, codes, count) check(tensor, codes, count)
#include "model.c"

int main(void)
{
    static float logits[GOLDEN_LOGITS];
    for (sample = 0; sample < GOLDEN_SAMPLES; sample++) {
        GOLDEN_RUN(golden_inputs[sample], logits);
        if (memcmp(logits, golden_logits[sample], sizeof logits) != 0) {
            differing++;
            printf("sample %lu: logits differ\n", (unsigned long)sample);
        }
    }
    printf("samples: %lu, tensors compared: %lu, differing: %lu\n", (unsigned long)sample, (unsigned long)tensors_seen,
           (unsigned long)differing);
    const int passed = differing == 0 && tensors_seen > 0 && tensors_seen == GOLDEN_SAMPLES * GOLDEN_QUANTIZED;
    puts(passed ? "PASS" : "FAIL");
    return passed ? 0 : 1;
}
