/* Where along one axis the largest code stands, the first of equal ones; with `flip` of all bits the smallest. */
struct arg_max {
    struct walk walk; /* in[2] codes, in_steps[2] apart */
    uint8_t flip;     /* 0 or 255 */
};

static void arg_max(const struct arg_max *p, const uint8_t *restrict x, int32_t *restrict y)
{
    const struct walk *w = &p->walk;
    for (int32_t a = 0; a < w->out[0]; a++) {
        for (int32_t b = 0; b < w->out[1]; b++) {
            for (int32_t c = 0; c < w->out[2]; c++) {
                const uint8_t *line = x + a * w->out_steps[0] + b * w->out_steps[1] + c * w->out_steps[2];
                int32_t best = 0;
                for (int32_t k = 1; k < w->in[2]; k++) {
                    if ((line[k * w->in_steps[2]] ^ p->flip) > (line[best * w->in_steps[2]] ^ p->flip)) {
                        best = k;
                    }
                }
                *y++ = best;
            }
        }
    }
}
