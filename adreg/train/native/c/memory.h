/* What a layer keeps for the way back, what is at work on it, and where all of it lies. */

#define SLAB 24                                /* tokens of a task that goes token by token */

enum { QKV, OUT, GLU, INNER, GROUPS };         /* projections of one input */
static const int FIRST[GROUPS + 1] = {Q, O, GATE, DOWN, SITES};

INLINE int group_of(int site) { return (site >= O) + (site >= GATE) + (site >= DOWN); }

typedef struct {                               /* of one layer, for the way back */
    float *inverse_in, *inverse_mlp, *sums;
    half *qkv, *attended, *middle, *gate, *up;
    half *s[GROUPS];                           /* [tokens][ranks of the group]: A x */
} Kept;

typedef struct {                               /* of the layer that is computed */
    half *normed_in, *normed_mlp, *hidden;
    half *hidden_back, *gate_back, *up_back, *normed_back, *middle_back, *attended_back, *qkv_back;
    half *back[GROUPS];                        /* [tokens][ranks]: what comes back through scaled B */
    half *s_turned[GROUPS], *back_turned[GROUPS];         /* [ranks][tokens] */
    unit *a_in[GROUPS], *a_out[GROUPS], *b_in[SITES], *b_out[SITES];
    float *first_keys, *first_values;
    unit *rooms;                               /* [threads][room] */
    Desk *desks;
    long room;
} Work;

typedef struct {
    Pool pool;                                 /* first: a thread's pool is the engine */
    const Layer *layer;
    Pass pass;
    Kept kept;
    Work work;
    void *memory;
    long bytes;
} Engine;

INLINE Engine *engine_of(const Thread *me) { return (Engine *)me->pool; }
INLINE unit *room_of(const Thread *me) { return engine_of(me)->work.rooms + me->index * engine_of(me)->work.room; }
INLINE long attended_width(const Layer *l) { return (long)l->heads * l->head_dim; }

static long ranks_before(const Layer *l, int group, int site)      /* of the group's layers before `site`, each made even */
{
    long ranks = 0;
    for (int i = FIRST[group]; i < site; i++)
        ranks += even(l->linear[i].rank);
    return ranks;
}

INLINE long ranks_of(const Layer *l, int group) { return ranks_before(l, group, FIRST[group + 1]); }

/* Where things lie. Each takes the next cache lines behind `at`, which may be NULL to measure. */

static void *next(char **at, long bytes)
{
    char *place = *at;
    *at += padded(bytes, 64);
    return place;
}

static long lay_kept(Kept *k, const Layer *l, long tokens, void *memory)
{
    char *at = memory;
    k->inverse_in = next(&at, sizeof(float) * tokens);
    k->inverse_mlp = next(&at, sizeof(float) * tokens);
    k->sums = next(&at, sizeof(float) * tokens * l->heads);
    k->qkv = next(&at, sizeof(half) * tokens * wide_of(l));
    k->attended = next(&at, sizeof(half) * tokens * attended_width(l));
    k->middle = next(&at, sizeof(half) * tokens * l->hidden);
    k->gate = next(&at, sizeof(half) * tokens * l->inner);
    k->up = next(&at, sizeof(half) * tokens * l->inner);
    for (int group = 0; group < GROUPS; group++)
        k->s[group] = next(&at, sizeof(half) * tokens * ranks_of(l, group));
    return at - (char *)memory;
}

static void lay_desk(Desk *desk, const Layer *l, long longest, char **at)
{
    long d = l->head_dim;
    desk->longest = longest;
    desk->key = next(at, sizeof(half) * longest * d);
    desk->value = next(at, sizeof(half) * longest * d);
    desk->key_rows = next(at, sizeof(unit) * longest * d / 2);
    desk->value_rows = next(at, sizeof(unit) * longest * d / 2);
    desk->key_columns = next(at, sizeof(unit) * longest * d / 2);
    desk->value_columns = next(at, sizeof(unit) * longest * d / 2);
    desk->scores = next(at, sizeof(float) * BLOCK * longest);
    desk->shifts = next(at, sizeof(float) * BLOCK * longest);
    desk->p = next(at, sizeof(half) * BLOCK * longest);
    desk->ds = next(at, sizeof(half) * BLOCK * longest);
    desk->p_turned = next(at, sizeof(half) * TURN * longest);
    desk->ds_turned = next(at, sizeof(half) * TURN * longest);
    desk->query_columns = next(at, sizeof(unit) * TURN * d / 2);
    desk->out_columns = next(at, sizeof(unit) * TURN * d / 2);
    desk->key_back = next(at, sizeof(float) * longest * d);
    desk->value_back = next(at, sizeof(float) * longest * d);
}

static long most(long a, long b) { return a > b ? a : b; }

static long lay_work(Work *w, const Layer *l, const Pass *p, int threads, void *memory)
{
    char *at = memory;
    long n = p->tokens, longest = 0, before = 0, turned = padded(n, 2);
    for (int i = 0; i < p->rows; i++) {
        longest = most(longest, padded(p->row[i].before + p->row[i].count, TILE));
        before = most(before, p->row[i].before);
    }
    half **by_inner[] = {&w->hidden, &w->hidden_back, &w->gate_back, &w->up_back};
    half **by_hidden[] = {&w->normed_in, &w->normed_mlp, &w->normed_back, &w->middle_back};
    for (int i = 0; i < 4; i++) {
        *by_inner[i] = next(&at, sizeof(half) * n * l->inner);
        *by_hidden[i] = next(&at, sizeof(half) * n * l->hidden);
    }
    w->attended_back = next(&at, sizeof(half) * n * attended_width(l));
    w->qkv_back = next(&at, sizeof(half) * n * wide_of(l));
    for (int group = 0; group < GROUPS; group++) {
        long ranks = ranks_of(l, group), inputs = l->linear[FIRST[group]].inputs;
        w->back[group] = next(&at, sizeof(half) * n * ranks);
        w->s_turned[group] = next(&at, sizeof(half) * turned * ranks);
        w->back_turned[group] = next(&at, sizeof(half) * turned * ranks);
        w->a_in[group] = next(&at, sizeof(half) * inputs * padded(ranks, TILE));
        w->a_out[group] = next(&at, sizeof(half) * inputs * ranks);
    }
    for (int site = 0; site < SITES; site++) {
        long ranks = even(l->linear[site].rank), outputs = l->linear[site].outputs;
        w->b_in[site] = next(&at, sizeof(half) * outputs * padded(ranks, TILE));
        w->b_out[site] = next(&at, sizeof(half) * outputs * ranks);
    }
    w->first_keys = next(&at, sizeof(float) * before * l->kv_heads * l->head_dim);
    w->first_values = next(&at, sizeof(float) * before * l->kv_heads * l->head_dim);
    w->room = TILE * padded(most(most(l->inner, wide_of(l)), most(l->hidden, n / 2 + 1)), LANES);
    w->rooms = next(&at, sizeof(unit) * w->room * threads);
    w->desks = next(&at, sizeof(Desk) * threads);
    for (int i = 0; i < threads; i++) {
        Desk unused;
        lay_desk(memory ? &w->desks[i] : &unused, l, longest, &at);
    }
    return at - (char *)memory;
}
