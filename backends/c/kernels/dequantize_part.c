/* Values of the codes of one tensor: element (row, column, channel) goes `step` of each away from y. */
static void dequantize_part(
    struct shape in, struct shape step, int32_t zero_point, float scale, const uint8_t *restrict x, float *restrict y)
{
    for (int32_t row = 0; row < in.height; row++) {
        for (int32_t column = 0; column < in.width; column++) {
            for (int32_t c = 0; c < in.channels; c++) {
                y[row * step.height + column * step.width + c * step.channels] =
                    (float)((int32_t)*x++ - zero_point) * scale;
            }
        }
    }
}
