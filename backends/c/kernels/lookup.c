/* A function of one code as its 256 values. `y` may be `x`. */
static void lookup(const uint8_t *table, const uint8_t *x, uint8_t *y, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        y[i] = table[x[i]];
    }
}
