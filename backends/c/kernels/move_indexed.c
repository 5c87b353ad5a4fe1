/* Codes moved unchanged, each by its own index; the zero point where that is -1. */
static void move_indexed(
    const int32_t *index, uint8_t zero_point, const uint8_t *restrict x, uint8_t *restrict y, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        y[i] = index[i] < 0 ? zero_point : x[index[i]];
    }
}
