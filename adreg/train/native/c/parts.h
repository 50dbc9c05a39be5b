/* The products that a layer is made of, each from its inputs to where its results go. */

INLINE Term through(const half *x, long width, const Linear *linear)               /* x W' */
{
    return (Term){.x = (const unit *)x, .stride = width / 2, .w = linear->weight, .pitch = linear->inputs, .units = linear->inputs / 2, .lie = ROWS};
}

INLINE Term back_through(const half *x, long width, const Linear *linear)          /* x W */
{
    return (Term){.x = (const unit *)x, .stride = width / 2, .w = linear->weight, .pitch = linear->inputs, .units = linear->outputs / 2,
                  .depth = linear->outputs, .lie = COLUMNS};
}

INLINE Term packed(const half *x, long width, const unit *tiles, long elements)
{
    return (Term){.x = (const unit *)x, .stride = width / 2, .w = tiles, .units = elements / 2, .lie = TILES};
}

/* The layer at `site`, whose adapter has begun with s; what it gives goes to `out`, `width` elements a token. */
static Product forward_of(const Engine *e, int group, int site, const half *x, half *out, long width, const half *added)
{
    const Linear *linear = &e->layer->linear[site];
    long ranks = ranks_of(e->layer, group);
    Product p = {.term = {through(x, linear->inputs, linear)}, .terms = 1, .form = added ? ADDED : HALVES, .rows = e->pass.tokens,
                 .columns = linear->outputs, .width = width, .out = out, .bias = linear->bias, .added = added};
    if (linear->rank)
        p.term[p.terms++] = packed(e->kept.s[group] + ranks_before(e->layer, group, site), ranks, e->work.b_out[site], even(linear->rank));
    return p;
}

static Product shrink(const Engine *e, int group, const half *x)                   /* s = A x of all layers of the group */
{
    long ranks = ranks_of(e->layer, group), inputs = e->layer->linear[FIRST[group]].inputs;
    return (Product){.term = {packed(x, inputs, e->work.a_in[group], inputs)}, .terms = 1, .form = HALVES, .rows = e->pass.tokens,
                     .columns = ranks, .width = ranks, .chunk = SLAB, .out = e->kept.s[group]};
}

static Product shrink_back(const Engine *e, int group, int site, const half *back, long width)      /* through scaled B */
{
    const Linear *linear = &e->layer->linear[site];
    return (Product){.term = {packed(back, width, e->work.b_in[site], linear->outputs)}, .terms = 1, .form = HALVES, .rows = e->pass.tokens,
                     .columns = even(linear->rank), .width = ranks_of(e->layer, group), .chunk = SLAB,
                     .out = e->work.back[group] + ranks_before(e->layer, group, site)};
}

/* What a group's input gets back, from what its layers get: `back[i]` has `width` elements a token. */
static Product input_back(const Engine *e, int group, const half *const *back, long width, half *out)
{
    const Layer *l = e->layer;
    long inputs = l->linear[FIRST[group]].inputs, ranks = ranks_of(l, group);
    Product p = {.form = HALVES, .rows = e->pass.tokens, .columns = inputs, .width = inputs, .out = out};
    for (int site = FIRST[group]; site < FIRST[group + 1]; site++)
        p.term[p.terms++] = back_through(back[site - FIRST[group]], width, &l->linear[site]);
    if (ranks)
        p.term[p.terms++] = packed(e->work.back[group], ranks, e->work.a_out[group], ranks);
    return p;
}

static void shrink_slab(Thread *me, const Product *p, long slab)
{
    for (long tile = 0; tile < tiles_of(p); tile++)
        multiply(p, slab * tiles_of(p) + tile, room_of(me));
}

#define SLABS(e) (((e)->pass.tokens + SLAB - 1) / SLAB)
#define TOKENS(e, slab, t) for (long t = (long)(slab) * SLAB; t < ((slab) + 1) * SLAB && t < (e)->pass.tokens; t++)

static Scene scene_of(const Engine *e)
{
    return (Scene){.layer = e->layer, .qkv = e->kept.qkv, .out = e->kept.attended, .sums = e->kept.sums, .out_back = e->work.attended_back,
                   .qkv_back = e->work.qkv_back, .first_keys = e->work.first_keys, .first_values = e->work.first_values,
                   .cosines = e->pass.cosines, .sines = e->pass.sines, .tokens = e->pass.tokens};
}
