/* Product of two tensors on grids of their own. */
struct product {
    struct shape out;
    int32_t a_pixel, b_pixel; /* codes from pixel to pixel: 0 where one pixel is broadcast over the map */
    int32_t a_zero, b_zero;
    struct rescale rescale;
    struct term term;
};

/* `y` may be `a` or `b`: each code is read before it is written over. */
static void product(const struct product *p, const uint8_t *a, const uint8_t *b, uint8_t *y)
{
    for (int32_t pixel = 0; pixel < p->out.height * p->out.width; pixel++) {
        for (int32_t c = 0; c < p->out.channels; c++) {
            const int32_t value = (a[c] - p->a_zero) * (b[c] - p->b_zero);
            y[c] = to_code(&p->rescale, p->rescale.offset + scaled(&p->term, value, c));
        }
        a += p->a_pixel;
        b += p->b_pixel;
        y += p->out.channels;
    }
}
