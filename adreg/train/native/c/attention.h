/* Causal attention of one row's queries, there and back; a key's head serves a group of queries' heads. P is taken again on
 * the way back, from the logarithm of its sum. */

#define TURN 96                                /* queries whose P is held at a time on the way back */

typedef struct {                               /* one thread's room for rows of up to `longest` keys */
    half *key, *value;                         /* [longest][d], the prefix first */
    unit *key_rows, *value_rows;               /* tiles with positions for outputs */
    unit *key_columns, *value_columns;         /* tiles with elements of the head for outputs */
    float *scores, *shifts;                    /* [BLOCK][longest] */
    half *p, *ds;                              /* [BLOCK][longest] */
    half *p_turned, *ds_turned;                /* [longest][TURN] */
    unit *query_columns, *out_columns;         /* of TURN queries */
    float *key_back, *value_back;              /* [longest][d] */
    long longest;
} Desk;

typedef struct {                               /* where queries, keys and values lie, one token after the other */
    const Layer *layer;
    const half *qkv, *out;                     /* [tokens][wide], [tokens][heads d] */
    float *sums;                               /* [heads][tokens]: log of the sum of e^score */
    const half *out_back;                      /* back: as `out` */
    half *qkv_back;                            /* back: as `qkv` */
    float *first_keys, *first_values;          /* back: [kv_heads][before][d], what rows send to the tokens before them */
    const half *cosines, *sines;
    long tokens;
} Scene;

INLINE long wide_of(const Layer *l) { return (long)(l->heads + 2 * l->kv_heads) * l->head_dim; }
INLINE long token_of(const Row *row, long position) { return position < row->before ? position : row->start + position - row->before; }

static void lay_keys(const Scene *s, const Row *row, int head, Desk *desk, int back)
{
    long d = s->layer->head_dim, length = row->before + row->count, up_to = padded(length, TILE);
    const half *key = s->qkv + (s->layer->heads + head) * d, *value = key + s->layer->kv_heads * d;
    memset(desk->key + length * d, 0, sizeof(half) * d * (up_to - length));
    memset(desk->value + length * d, 0, sizeof(half) * d * (up_to - length));
    for (long i = 0; i < length; i++) {
        memcpy(desk->key + i * d, key + token_of(row, i) * wide_of(s->layer), sizeof(half) * d);
        memcpy(desk->value + i * d, value + token_of(row, i) * wide_of(s->layer), sizeof(half) * d);
    }
    for (long i = 0; i < up_to; i += TILE) {
        pack_rows(desk->key + i * d, d, d / 2, desk->key_rows + i * d / 2);
        if (back)
            pack_rows(desk->value + i * d, d, d / 2, desk->value_rows + i * d / 2);
    }
    for (long i = 0; i < d; i += TILE)
        pack_columns((back ? desk->key : desk->value) + i, d, up_to, (back ? desk->key_columns : desk->value_columns) + i * up_to / 2);
}

/* x [count][units] times as many tiles as hold `columns` outputs, to out [count][width] */
static void times(const void *x, long stride, long units, int count, const unit *tiles, long tile_units, long columns, float *out, long width)
{
    Product p = {.term = {{.x = x, .stride = stride, .units = units}}, .terms = 1};
    _Alignas(64) float sums[BLOCK][TILE];
    for (long column = 0; column < columns; column += TILE) {
        const unit *tile = tiles + column * tile_units;
        sums_of(count, &p, &tile, 0, sums);
        for (int m = 0; m < count; m++)
            memcpy(out + m * width + column, sums[m], sizeof sums[m]);
    }
}

/* e^(scale score - base) for the `seen` first of a row, zeros up to `to`; returns their sum */
static float weigh(float *scores, long seen, long to, float scale, float base)
{
    v16 sum = {};
    i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (long i = 0; i < to; i += LANES) {
        v16 e = exponential(load(scores + i) * scale - base);
        i16 here = lane < (int)(seen - i);
        e = (v16)((i16)e & here);
        store(scores + i, e);
        sum += e;
    }
    return across(sum);
}

static float highest(const float *scores, long seen)
{
    float top = scores[0];
    for (long i = 1; i < seen; i++)
        top = scores[i] > top ? scores[i] : top;
    return top;
}

static void attend(const Scene *s, const Row *row, int head, Desk *desk)
{
    const Layer *l = s->layer;
    long d = l->head_dim, length = row->before + row->count, up_to = padded(length, TILE), wide = wide_of(l);
    _Alignas(64) float out[BLOCK][256];
    lay_keys(s, row, head / (l->heads / l->kv_heads), desk, 0);
    for (long first = 0; first < row->count; first += BLOCK) {
        int count = row->count - first < BLOCK ? row->count - first : BLOCK;
        long token = row->start + first, seen = row->before + first + count, columns = padded(seen, TILE);
        times(s->qkv + token * wide + head * d, wide / 2, d / 2, count, desk->key_rows, d / 2, columns, desk->scores, desk->longest);
        for (int m = 0; m < count; m++) {
            float *scores = desk->scores + m * desk->longest;
            long own = seen - count + m + 1;
            float top = highest(scores, own) * l->score_scale, sum = weigh(scores, own, columns, l->score_scale, top);
            s->sums[head * s->tokens + token + m] = top + logf(sum);
            for (long i = 0; i < columns; i += LANES)
                narrowed(desk->p + m * desk->longest + i, load(scores + i) / sum);
        }
        times(desk->p, desk->longest / 2, columns / 2, count, desk->value_columns, up_to / 2, d, out[0], 256);
        for (int m = 0; m < count; m++)
            for (long i = 0; i < d; i += LANES)
                narrowed((half *)s->out + (token + m) * l->heads * d + head * d + i, load(out[m] + i));
    }
}

/* P and what comes back to the scores, of the queries from `first` on; and the gradients of these queries */
static void attend_back_block(const Scene *s, const Row *row, int head, Desk *desk, long first, int count, long turn)
{
    const Layer *l = s->layer;
    long d = l->head_dim, token = row->start + first, seen = row->before + first + count, columns = padded(seen, TILE), wide = wide_of(l);
    long up_to = padded(row->before + row->count, TILE);
    const half *out = s->out + token * l->heads * d + head * d, *back = s->out_back + token * l->heads * d + head * d;
    _Alignas(64) float query_back[BLOCK][256];
    times(s->qkv + token * wide + head * d, wide / 2, d / 2, count, desk->key_rows, d / 2, columns, desk->scores, desk->longest);
    times(back, l->heads * d / 2, d / 2, count, desk->value_rows, d / 2, columns, desk->shifts, desk->longest);
    for (int m = 0; m < count; m++) {
        float *scores = desk->scores + m * desk->longest, *shifts = desk->shifts + m * desk->longest;
        v16 along = {};
        for (long i = 0; i < d; i += LANES)
            along = fused(widened(out + m * l->heads * d + i), widened(back + m * l->heads * d + i), along);
        v16 mean = all(across(along));
        weigh(scores, seen - count + m + 1, columns, l->score_scale, s->sums[head * s->tokens + token + m]);
        for (long i = 0; i < columns; i += LANES) {
            half *p = desk->p + m * desk->longest + i, *ds = desk->ds + m * desk->longest + i;
            narrowed(p, load(scores + i));
            narrowed(ds, load(scores + i) * (load(shifts + i) - mean) * l->score_scale);
            for (int j = 0; j < LANES; j++) {
                desk->p_turned[(i + j) * TURN + turn + m] = p[j];
                desk->ds_turned[(i + j) * TURN + turn + m] = ds[j];
            }
        }
    }
    times(desk->ds, desk->longest / 2, columns / 2, count, desk->key_columns, up_to / 2, d, query_back[0], 256);
    for (int m = 0; m < count; m++)
        turned_back(query_back[m], s->cosines + (token + m) * d, s->sines + (token + m) * d, d, s->qkv_back + (token + m) * wide + head * d);
}

static void add_times(const half *x, long rows, long units, const unit *tiles, long d, float *out)    /* out [rows][d] += x [rows][TURN] tiles */
{
    _Alignas(64) float sums[BLOCK][256];
    for (long row = 0; row < rows; row += BLOCK) {
        int count = rows - row < BLOCK ? rows - row : BLOCK;
        times(x + row * TURN, TURN / 2, units, count, tiles, TURN / 2, d, sums[0], 256);
        for (int m = 0; m < count; m++)
            for (long i = 0; i < d; i += LANES)
                store(out + (row + m) * d + i, load(out + (row + m) * d + i) + load(sums[m] + i));
    }
}

static void attend_back(const Scene *s, const Row *row, int key_head, Desk *desk)       /* of all heads that share the keys */
{
    const Layer *l = s->layer;
    long d = l->head_dim, length = row->before + row->count, wide = wide_of(l), group = l->heads / l->kv_heads;
    lay_keys(s, row, key_head, desk, 1);
    memset(desk->key_back, 0, sizeof(float) * length * d);
    memset(desk->value_back, 0, sizeof(float) * length * d);
    for (int head = key_head * group; head < (key_head + 1) * group; head++)
        for (long first = 0; first < row->count; first += TURN) {
            long count = row->count - first < TURN ? row->count - first : TURN, token = row->start + first, seen = row->before + first + count;
            memset(desk->p_turned, 0, sizeof(half) * TURN * padded(seen, TILE));
            memset(desk->ds_turned, 0, sizeof(half) * TURN * padded(seen, TILE));
            for (long m = 0; m < count; m += BLOCK)
                attend_back_block(s, row, head, desk, first + m, count - m < BLOCK ? count - m : BLOCK, m);
            for (long i = 0; i < d; i += TILE) {
                pack_columns(s->qkv + token * wide + head * d + i, wide, count, desk->query_columns + i * TURN / 2);
                pack_columns(s->out_back + token * l->heads * d + head * d + i, l->heads * d, count, desk->out_columns + i * TURN / 2);
            }
            add_times(desk->p_turned, seen, (count + 1) / 2, desk->out_columns, d, desk->value_back);
            add_times(desk->ds_turned, seen, (count + 1) / 2, desk->query_columns, d, desk->key_back);
        }
}

/* What `attend_back` has left on the desk, to the row's own tokens, and to those before it, which are summed first. */
static void send_keys_back(const Scene *s, const Row *row, int key_head, Desk *desk, long before)
{
    const Layer *l = s->layer;
    long d = l->head_dim, wide = wide_of(l);
    float *first_keys = s->first_keys + key_head * before * d, *first_values = s->first_values + key_head * before * d;
    for (long i = 0; i < row->before * d; i++) {
        first_keys[i] += desk->key_back[i];
        first_values[i] += desk->value_back[i];
    }
    for (long i = 0; i < row->count; i++) {
        long token = row->start + i;
        float *key = desk->key_back + (row->before + i) * d, *value = desk->value_back + (row->before + i) * d;
        half *back = s->qkv_back + token * wide + (l->heads + key_head) * d;
        for (long j = 0; token < before && j < d; j++) {
            key[j] += first_keys[token * d + j];
            value[j] += first_values[token * d + j];
        }
        turned_back(key, s->cosines + token * d, s->sines + token * d, d, back);
        for (long j = 0; j < d; j += LANES)
            narrowed(back + l->kv_heads * d + j, load(value + j));
    }
}
