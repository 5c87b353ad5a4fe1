/* The largest code along some axes; with `flip` of all bits the smallest. */
struct reduce_extreme {
    struct walk walk;
    uint8_t flip; /* 0 or 255 */
};

static uint8_t walked_extreme(const struct walk *w, const uint8_t *x, uint8_t flip)
{
    uint8_t found = 0;
    for (int32_t i = 0; i < w->in[0]; i++) {
        for (int32_t j = 0; j < w->in[1]; j++) {
            const uint8_t *line = x + i * w->in_steps[0] + j * w->in_steps[1];
            for (int32_t k = 0; k < w->in[2]; k++) {
                const uint8_t code = (uint8_t)(line[k * w->in_steps[2]] ^ flip);
                found = code > found ? code : found;
            }
        }
    }
    return (uint8_t)(found ^ flip);
}

static void reduce_extreme(const struct reduce_extreme *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    const struct walk *w = &p->walk;
    for (int32_t a = 0; a < w->out[0]; a++) {
        for (int32_t b = 0; b < w->out[1]; b++) {
            for (int32_t c = 0; c < w->out[2]; c++) {
                *y++ = walked_extreme(
                    w, x + a * w->out_steps[0] + b * w->out_steps[1] + c * w->out_steps[2], p->flip);
            }
        }
    }
}
