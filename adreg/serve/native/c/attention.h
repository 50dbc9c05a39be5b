/* Keys and values of sequences, and attention over them. */

static void turned(const Engine *e, const Layer *layer, int row, float *head, const float *norm)
{
    const Model *m = e->model;
    int half = m->head_dim / 2;
    const float *cosines = e->angles + ((long)layer->rope * e->rows + row) * m->head_dim, *sines = cosines + half;
    if (norm)
        norm_in_place(m, head, norm, m->head_dim, m->head_dim);
    for (int i = 0; i < half; i++) {
        float x = head[i], y = head[i + half];
        head[i] = x * cosines[i] - y * sines[i];
        head[i + half] = y * cosines[i] + x * sines[i];
    }
}

INLINE long key_units(const Model *m, long capacity) { return capacity * units_of(m->head_dim, m->bf16); }
INLINE long value_units(const Model *m, long capacity) { return padded(m->head_dim, TILE) * units_of(capacity, m->bf16); }

INLINE unit *keys_of(const Engine *e, const Segment *segment, int layer, int head)      /* its values follow */
{
    const Model *m = e->model;
    long both = key_units(m, segment->capacity) + value_units(m, segment->capacity);
    return segment->memory + ((long)layer * m->kv_heads + head) * both;
}

static void remember(const Engine *e, int row, const float *key, const float *value, unit *keys)
{
    const Model *m = e->model;
    long position = e->position[row], capacity = e->segment_of[row]->capacity, units = units_of(m->head_dim, m->bf16);
    unit line[m->head_dim], *values = keys + key_units(m, capacity);
    for (int i = 0; i < m->head_dim; i += LANES)
        narrow(line, i, load(key + i), m->bf16);
    for (int u = 0; u < units; u++)
        keys[(position / TILE * units + u) * TILE + position % TILE] = line[u];
    for (int i = 0; i < m->head_dim; i += LANES)
        narrow(line, i, load(value + i), m->bf16);
    for (int i = 0; i < m->head_dim; i++) {
        unit *tile = values + i / TILE * units_of(capacity, m->bf16) * TILE;
        if (m->bf16)
            ((uint16_t *)(tile + position / 2 * TILE + i % TILE))[position % 2] = ((uint16_t *)line)[i];
        else
            tile[position * TILE + i % TILE] = line[i];
    }
}

static void ready(Engine *e, int index, int row)      /* a row's queries, keys and values to where attention wants them */
{
    const Model *m = e->model;
    const Layer *layer = &m->layer[index];
    int group = m->heads / m->kv_heads;
    long units = units_of(m->head_dim, m->bf16);
    float *q = e->wide + row * wide_width(m), *k = q + m->heads * m->head_dim, *v = k + m->kv_heads * m->head_dim;
    for (int head = 0; head < m->heads; head++) {
        unit *out = e->query + (((long)(head / group) * e->rows + row) * group + head % group) * units;
        turned(e, layer, row, q + head * m->head_dim, layer->norm_q);
        for (int i = 0; i < m->head_dim; i += LANES)
            narrow(out, i, load(q + head * m->head_dim + i), m->bf16);
    }
    for (int head = 0; head < m->kv_heads; head++) {
        turned(e, layer, row, k + head * m->head_dim, layer->norm_k);
        remember(e, row, k + head * m->head_dim, v + head * m->head_dim, keys_of(e, e->segment_of[row], index, head));
    }
}

INLINE i16 seen(long at, long low, long high)          /* which of the positions from `at` on a row may see */
{
    i16 position = (i16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + (int)at;
    return (position >= (int)low) & (position <= (int)high);
}

INLINE long first_seen(const Layer *layer, long position)
{
    return layer->window && position >= layer->window ? position - layer->window + 1 : 0;
}

static v16 weighed(const Model *m, v16 score)
{
    score *= m->score_scale;
    return m->score_cap ? capped(score, m->score_cap) : score;
}

/* Attention of the query heads `first` to `first + heads` of one key head, for the rows of a stretch. Scores that a row
 * may not see become weights of exactly zero, so that a row's sums are the same whoever stands beside it. */
static void attend(Engine *e, int index, const Stretch *stretch, int kv_head, int first, int heads, float *scores)
{
    const Model *m = e->model;
    const Layer *layer = &m->layer[index];
    const Segment *segment = e->segment_of[stretch->row];
    int group = m->heads / m->kv_heads, rows = stretch->count * heads;
    long units = units_of(m->head_dim, m->bf16), position = e->position[stretch->row], tile = units_of(segment->capacity, m->bf16);
    long base = first_seen(layer, position) / TILE * TILE, end = padded(position + stretch->count, TILE);
    const unit *keys = keys_of(e, segment, index, kv_head), *values = keys + key_units(m, segment->capacity);
    const unit *query = e->query + (((long)kv_head * e->rows + stretch->row) * group + first) * units;
    _Alignas(64) float sums[BLOCK][TILE], share[BLOCK];
    v16 highest[BLOCK];
    for (int v = 0; v < rows; v++)
        highest[v] = all(-INFINITY);
    for (long at = base; at < end; at += TILE) {
        product(rows, m->bf16, query, units, keys + at * units, units, sums);
        for (int v = 0; v < rows; v++)
            for (long half = 0; half < TILE; half += LANES) {
                long here = position + v / heads;
                i16 mask = seen(at + half, first_seen(layer, here), here);
                v16 score = weighed(m, load(sums[v] + half));
                score = (v16)(((i16)score & mask) | ((i16)all(-INFINITY) & ~mask));
                store(scores + v * e->longest + at - base + half, score);
                highest[v] = largest(score, highest[v]);
            }
    }
    for (int v = 0; v < rows; v++) {
        float *row = scores + v * e->longest, top = highest[v][0];
        for (int i = 1; i < LANES; i++)
            top = highest[v][i] > top ? highest[v][i] : top;
        v16 sum = {};
        long here = position + v / heads;
        for (long at = base; at < end; at += LANES) {
            v16 weight = exponential(load(row + at - base) - top);
            weight = (v16)((i16)weight & seen(at, first_seen(layer, here), here));
            sum += weight;
            narrow((unit *)row, at - base, weight, m->bf16);
        }
        share[v] = 1.0f / across(sum);
    }
    for (int i = 0; i < m->head_dim; i += TILE) {
        const unit *from = values + i * tile + units_of(base, m->bf16) * TILE;
        product(rows, m->bf16, (unit *)scores, e->longest, from, units_of(end - base, m->bf16), sums);
        for (int v = 0; v < rows; v++) {
            unit *out = e->attended + (stretch->row + v / heads) * row_units(m, m->heads * m->head_dim);
            long column = (long)(kv_head * group + first + v % heads) * m->head_dim + i;
            narrow(out, column, load(sums[v]) * share[v], m->bf16);
            if (i + LANES < m->head_dim)
                narrow(out, column + LANES, load(sums[v] + LANES) * share[v], m->bf16);
        }
    }
}

INLINE int heads_together(const Model *m) { int group = m->heads / m->kv_heads; return group < BLOCK ? group : BLOCK; }

static void attend_all(Thread *me, int index)
{
    Engine *e = engine_of(me);
    const Model *m = e->model;
    int group = m->heads / m->kv_heads, together = heads_together(m), splits = (group + together - 1) / together;
    EACH(task, e->stretches * m->kv_heads * splits) {
        int first = task % splits * together, heads = group - first < together ? group - first : together;
        attend(e, index, &e->stretch[task / splits / m->kv_heads], task / splits % m->kv_heads, first, heads,
               e->scores + (long)me->index * BLOCK * e->longest);
    }
}
