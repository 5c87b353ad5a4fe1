/* Sum of two tensors on grids of their own. */
struct sum {
    struct shape out;
    int32_t a_pixel, b_pixel; /* codes from pixel to pixel: 0 where one pixel is broadcast over the map */
    int32_t a_zero, b_zero;
    struct rescale rescale;
    struct term a_term, b_term;
};

/* `y` may be `a` or `b`: each code is read before it is written over. */
static void sum(const struct sum *p, const uint8_t *a, const uint8_t *b, uint8_t *y)
{
    for (int32_t pixel = 0; pixel < p->out.height * p->out.width; pixel++) {
        for (int32_t c = 0; c < p->out.channels; c++) {
            const int64_t total = scaled(&p->a_term, a[c] - p->a_zero, c) + scaled(&p->b_term, b[c] - p->b_zero, c);
            y[c] = to_code(&p->rescale, p->rescale.offset + total);
        }
        a += p->a_pixel;
        b += p->b_pixel;
        y += p->out.channels;
    }
}
