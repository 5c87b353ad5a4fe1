/* A function of one code for each channel: 256 values of the first channel, then those of the next. `y` may be `x`. */
static void lookup_channels(const uint8_t *tables, const uint8_t *x, uint8_t *y, int32_t pixels, int32_t channels)
{
    for (int32_t pixel = 0; pixel < pixels; pixel++) {
        const uint8_t *table = tables;
        for (int32_t c = 0; c < channels; c++) {
            *y++ = table[*x++];
            table += 256;
        }
    }
}
