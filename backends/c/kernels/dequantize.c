/* Logits from codes: one float multiplication each. They leave in the order channels, height, width. */
static void dequantize(struct shape in, int32_t zero_point, float scale, const uint8_t *restrict x, float *restrict y)
{
    const int32_t pixels = in.height * in.width;
    for (int32_t c = 0; c < in.channels; c++) {
        for (int32_t pixel = 0; pixel < pixels; pixel++) {
            *y++ = (float)((int32_t)x[pixel * in.channels + c] - zero_point) * scale;
        }
    }
}
