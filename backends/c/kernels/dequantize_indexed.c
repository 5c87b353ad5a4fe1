/* Logits from the codes of one tensor of several, element by element, where no steps lead from one to the next. */
static void dequantize_indexed(
    const int32_t *elements, const int32_t *logits, int32_t count, int32_t zero_point, float scale,
    const uint8_t *restrict x, float *restrict y)
{
    for (int32_t i = 0; i < count; i++) {
        y[logits[i]] = (float)((int32_t)x[elements[i]] - zero_point) * scale;
    }
}
