/* The larger or the smaller of two codes on grids of their own. */
struct extreme {
    struct shape out;
    int32_t a_pixel, b_pixel; /* codes from pixel to pixel: 0 where one pixel is broadcast over the map */
    int32_t a_zero, b_zero;
    struct rescale a_rescale, b_rescale;
    struct term a_term, b_term;
    int32_t largest;
};

/* `y` may be `a` or `b`: each code is read before it is written over. */
static void extreme(const struct extreme *p, const uint8_t *a, const uint8_t *b, uint8_t *y)
{
    for (int32_t pixel = 0; pixel < p->out.height * p->out.width; pixel++) {
        for (int32_t c = 0; c < p->out.channels; c++) {
            const uint8_t first =
                to_code(&p->a_rescale, p->a_rescale.offset + scaled(&p->a_term, a[c] - p->a_zero, c));
            const uint8_t second =
                to_code(&p->b_rescale, p->b_rescale.offset + scaled(&p->b_term, b[c] - p->b_zero, c));
            y[c] = (first > second) == (p->largest != 0) ? first : second;
        }
        a += p->a_pixel;
        b += p->b_pixel;
        y += p->out.channels;
    }
}
