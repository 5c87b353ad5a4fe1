/* Logits from integers: element `elements[i]` is logit `logits[i]`. */
static void dequantize_integers(
    const int32_t *elements, const int32_t *logits, int32_t count, const int32_t *restrict x, float *restrict y)
{
    for (int32_t i = 0; i < count; i++) {
        y[logits[i]] = (float)x[elements[i]];
    }
}
