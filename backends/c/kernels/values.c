/* Operators on float32 values: each element by itself, in the order written here. Their libraries are C's. */

/* Sizes of four axes, and how many elements lie from one to the next in each tensor; 0 where one is repeated. */
struct grid {
    int32_t sizes[4], a[4], b[4], y[4];
};

static inline float value_of(int32_t operator_, float a, float b)
{
    switch (operator_) {
    case '+': return a + b;
    case '-': return a - b;
    case '*': return a * b;
    case '/': return a / b;
    case 's': return 1.0f / (1.0f + expf(-a)); /* sigmoid */
    case 'e': return expf(a);
    case 'l': return logf(a);
    case 'q': return sqrtf(a);
    case 't': return tanhf(a);
    case 'r': return a > 0.0f ? a : 0.0f;
    case 'n': return -a;
    default: return a;
    }
}

static void values(const struct grid *g, int32_t operator_, const float *a, const float *b, float *y)
{
    for (int32_t i = 0; i < g->sizes[0]; i++) {
        for (int32_t j = 0; j < g->sizes[1]; j++) {
            for (int32_t k = 0; k < g->sizes[2]; k++) {
                const float *first = a + i * g->a[0] + j * g->a[1] + k * g->a[2];
                const float *second = b + i * g->b[0] + j * g->b[1] + k * g->b[2];
                float *out = y + i * g->y[0] + j * g->y[1] + k * g->y[2];
                for (int32_t l = 0; l < g->sizes[3]; l++) {
                    out[l * g->y[3]] = value_of(operator_, first[l * g->a[3]], second[l * g->b[3]]);
                }
            }
        }
    }
}
