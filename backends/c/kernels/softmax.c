/* exp(x - largest) by the sum of them, added one after the other from the first on; `inner` values lie between two. */
static void softmax(int32_t outer, int32_t size, int32_t inner, const float *restrict x, float *restrict y)
{
    for (int32_t i = 0; i < outer; i++) {
        for (int32_t k = 0; k < inner; k++) {
            const float *from = x + i * size * inner + k;
            float *to = y + i * size * inner + k;
            float largest = from[0], sum = 0.0f;
            for (int32_t j = 1; j < size; j++) {
                largest = from[j * inner] > largest ? from[j * inner] : largest;
            }
            for (int32_t j = 0; j < size; j++) {
                to[j * inner] = expf(from[j * inner] - largest);
                sum += to[j * inner];
            }
            for (int32_t j = 0; j < size; j++) {
                to[j * inner] /= sum;
            }
        }
    }
}
