/* Codes of values: the inverse of `decode`, rounded half to even, between `low` and `high`. */
static void encode(
    struct shape out, struct shape steps, int32_t zero_point, float scale, int32_t low, int32_t high,
    const float *restrict x, uint8_t *restrict y)
{
    for (int32_t row = 0; row < out.height; row++) {
        for (int32_t column = 0; column < out.width; column++) {
            for (int32_t c = 0; c < out.channels; c++) {
                const int32_t code =
                    quantized(x[row * steps.height + column * steps.width + c * steps.channels], scale, zero_point);
                *y++ = (uint8_t)(code < low ? low : code > high ? high : code);
            }
        }
    }
}
