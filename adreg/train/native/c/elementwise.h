/* What is done to one row by itself: norms, rotations and the gate of the MLP, there and back. Sums are taken in float. */

static float inverse_rms(const half *x, long n, float eps)
{
    v16 sum = {};
    for (long i = 0; i < n; i += LANES)
        sum = fused(widened(x + i), widened(x + i), sum);
    return 1.0f / sqrtf(across(sum) / n + eps);
}

static void normed(const half *x, const half *weight, float inverse, long n, half *out)
{
    for (long i = 0; i < n; i += LANES)
        narrowed(out + i, widened(x + i) * inverse * widened(weight + i));
}

/* out = more + the gradient of x from `back`, that of the normed x */
static void norm_back(const half *x, const half *weight, float inverse, const half *back, const half *more, long n, half *out)
{
    v16 along = {};
    for (long i = 0; i < n; i += LANES)
        along = fused(widened(back + i) * widened(weight + i), widened(x + i), along);
    v16 less = all(across(along) * inverse * inverse * inverse / n);
    for (long i = 0; i < n; i += LANES)
        narrowed(out + i, widened(more + i) + widened(back + i) * widened(weight + i) * inverse - widened(x + i) * less);
}

static void turned(half *head, const half *cosines, const half *sines, long n)         /* rotary embedding, halves paired */
{
    for (long i = 0; i < n / 2; i += LANES) {
        v16 x = widened(head + i), y = widened(head + n / 2 + i);
        narrowed(head + i, x * widened(cosines + i) - y * widened(sines + i));
        narrowed(head + n / 2 + i, y * widened(cosines + n / 2 + i) + x * widened(sines + n / 2 + i));
    }
}

static void turned_back(const float *head, const half *cosines, const half *sines, long n, half *out)
{
    for (long i = 0; i < n / 2; i += LANES) {
        v16 x = load(head + i), y = load(head + n / 2 + i);
        narrowed(out + i, x * widened(cosines + i) + y * widened(sines + n / 2 + i));
        narrowed(out + n / 2 + i, y * widened(cosines + n / 2 + i) - x * widened(sines + i));
    }
}

static void gated(const half *gate, const half *up, long n, half *out)                 /* silu(gate) up */
{
    for (long i = 0; i < n; i += LANES)
        narrowed(out + i, activated(widened(gate + i), 0) * widened(up + i));
}

static void gated_back(const half *gate, const half *up, const half *back, long n, half *gate_back, half *up_back)
{
    for (long i = 0; i < n; i += LANES) {
        v16 g = widened(gate + i), share = 1.0f / (1.0f + exponential(-g)), b = widened(back + i);
        narrowed(up_back + i, b * g * share);
        narrowed(gate_back + i, b * widened(up + i) * share * (1.0f + g * (1.0f - share)));
    }
}
