/* What is done to one row by itself: its embedding, its norms, the angles of its position. */

static float mean_square(const float *x, long width, long n)
{
    v16 sum = {};
    for (long i = 0; i < width; i += LANES)
        sum = fused(load(x + i), load(x + i), sum);
    return across(sum) / n;
}

INLINE float inverse_rms(const Model *m, const float *x, long width, long n) { return 1.0f / sqrtf(mean_square(x, width, n) + m->eps); }

static void normed(const Model *m, const float *x, const float *weight, unit *out)   /* a row of the residual stream */
{
    long width = padded(m->hidden, LANES);
    float scale = inverse_rms(m, x, width, m->hidden);
    for (long i = 0; i < width; i += LANES)
        narrow(out, i, load(x + i) * scale * load(weight + i), m->bf16);
}

static void norm_in_place(const Model *m, float *x, const float *weight, long width, long n)
{
    float scale = inverse_rms(m, x, width, n);
    for (long i = 0; i < width; i += LANES)
        store(x + i, load(x + i) * scale * load(weight + i));
}

INLINE long row_units(const Model *m, long elements) { return padded(units_of(padded(elements, LANES), m->bf16), LANES); }
INLINE long residual_width(const Model *m) { return padded(m->hidden, LANES); }
INLINE float *residual(const Engine *e, int row) { return e->hidden + row * residual_width(e->model); }
INLINE long wide_width(const Model *m)
{
    long qkv = (long)(m->heads + 2 * m->kv_heads) * m->head_dim;
    return qkv > residual_width(m) ? qkv : residual_width(m);
}

static void embed(Engine *e, int row)
{
    const Model *m = e->model;
    int token = e->tokens[row], units = m->embedding.units;
    const unit *tile = m->embedding.tiles + (long)(token / TILE) * units * TILE + token % TILE;
    const Low *low = e->low[row] ? e->low[row] + m->layers * SITES + 1 : NULL;
    float *x = residual(e, row);
    memset(x, 0, sizeof(float) * residual_width(m));
    for (int u = 0; u < units; u++) {
        x[m->bf16 ? 2 * u : u] = first_of(tile[u * TILE], m->bf16);
        if (m->bf16)
            x[2 * u + 1] = second_of(tile[u * TILE]);
    }
    for (int i = 0; i * LANES < residual_width(m); i++) {
        v16 y = load(x + i * LANES);
        if (low && low->rank)
            y = expanded(low, i, low->a + (long)token * low->units, y, m->bf16);
        store(x + i * LANES, y * m->embedding_scale);
    }
}

static void measure_angles(Engine *e, int row)
{
    const Model *m = e->model;
    for (int rope = 0; rope < ROPES && m->frequencies[rope]; rope++) {
        float *cosines = e->angles + ((long)rope * e->rows + row) * m->head_dim, *sines = cosines + m->head_dim / 2;
        for (int i = 0; i < m->head_dim / 2; i++) {
            float angle = e->position[row] * m->frequencies[rope][i];
            cosines[i] = cosf(angle) * m->rope_scale;
            sines[i] = sinf(angle) * m->rope_scale;
        }
    }
}
