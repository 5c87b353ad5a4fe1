/* Values of codes, in the order of the graph: `steps` values from one row, column and channel to the next. */
static void decode(
    struct shape in, struct shape steps, int32_t zero_point, float scale, const uint8_t *restrict x, float *restrict y)
{
    for (int32_t row = 0; row < in.height; row++) {
        for (int32_t column = 0; column < in.width; column++) {
            for (int32_t c = 0; c < in.channels; c++) {
                y[row * steps.height + column * steps.width + c * steps.channels] =
                    (float)((int32_t)*x++ - zero_point) * scale;
            }
        }
    }
}
