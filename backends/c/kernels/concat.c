/* One input of a concatenation: its channels go to `y`, whose pixels are `width` codes wide. A table brings codes to
   the output's grid; 0 where they are on it. */
static void concat_part(
    const uint8_t *table, const uint8_t *restrict x, int32_t pixels, int32_t channels, uint8_t *restrict y,
    int32_t width)
{
    for (int32_t pixel = 0; pixel < pixels; pixel++) {
        for (int32_t c = 0; c < channels; c++) {
            y[pixel * width + c] = table ? table[x[pixel * channels + c]] : x[pixel * channels + c];
        }
    }
}
