/* Sums along some axes. `sum_of_zeros` is the zero point times the number of codes in each. */
struct reduce_sum {
    struct walk walk;
    int32_t sum_of_zeros;
    struct rescale rescale;
    struct term term;
};

static int32_t walked_sum(const struct walk *w, const uint8_t *x)
{
    int32_t total = 0;
    for (int32_t i = 0; i < w->in[0]; i++) {
        for (int32_t j = 0; j < w->in[1]; j++) {
            const uint8_t *line = x + i * w->in_steps[0] + j * w->in_steps[1];
            for (int32_t k = 0; k < w->in[2]; k++) {
                total += line[k * w->in_steps[2]];
            }
        }
    }
    return total;
}

static void reduce_sum(const struct reduce_sum *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    const struct walk *w = &p->walk;
    for (int32_t a = 0; a < w->out[0]; a++) {
        for (int32_t b = 0; b < w->out[1]; b++) {
            for (int32_t c = 0; c < w->out[2]; c++) {
                const uint8_t *first = x + a * w->out_steps[0] + b * w->out_steps[1] + c * w->out_steps[2];
                const int32_t total = walked_sum(w, first) - p->sum_of_zeros;
                *y++ = to_code(&p->rescale, p->rescale.offset + scaled(&p->term, total, 0));
            }
        }
    }
}
