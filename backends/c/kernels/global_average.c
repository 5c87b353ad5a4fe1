/* Mean over the map. `sum_of_zeros` is the zero point times the number of pixels. */
struct global_average {
    struct shape in;
    int32_t sum_of_zeros;
    struct rescale rescale;
    struct term term;
};

static void global_average(const struct global_average *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    const int32_t pixels = p->in.height * p->in.width;
    for (int32_t c = 0; c < p->in.channels; c++) {
        int32_t total = -p->sum_of_zeros;
        for (int32_t pixel = 0; pixel < pixels; pixel++) {
            total += x[pixel * p->in.channels + c];
        }
        y[c] = to_code(&p->rescale, p->rescale.offset + scaled(&p->term, total, c));
    }
}
