/* How a kernel goes over a tensor: once for each element of its output, and there over some of the input's elements. */
struct walk {
    int32_t out[3], out_steps[3]; /* codes of the input from one element of the output to the next, 0 where it stays */
    int32_t in[3], in_steps[3];
};
