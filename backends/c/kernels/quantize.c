/* round_half_even(x / scale) + zero_point, clipped to 0 ... 255, without a library and under any rounding mode. */
static uint8_t quantized(float x, float scale, int32_t zero_point)
{
    float steps = x / scale;
    if (!(steps > -512.0f)) { /* a NaN becomes the least code */
        steps = -512.0f;
    }
    if (steps > 512.0f) {
        steps = 512.0f;
    }
    int32_t code = (int32_t)steps;
    const float rest = steps - (float)code; /* exact */
    const int32_t odd = code % 2 != 0;
    if (rest > 0.5f || (rest == 0.5f && odd)) {
        code++;
    } else if (rest < -0.5f || (rest == -0.5f && odd)) {
        code--;
    }
    code += zero_point;
    return (uint8_t)(code < 0 ? 0 : code > 255 ? 255 : code);
}
