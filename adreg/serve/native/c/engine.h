/* The engine's state: its threads, its model, and the buffers of the step that runs. */

typedef struct { int row, count; } Stretch;    /* neighbouring rows of one sequence that attend together */

typedef struct {
    Pool pool;                                 /* first: a thread's pool is the engine */
    const Model *model;
    float *scores;                             /* [threads][BLOCK][longest] */
    /* the running step */
    const int32_t *tokens;
    float *logits;
    int rows, outputs, stretches, adapted;
    long capacity, longest, ranks;             /* rows that the buffers hold; scores; units of s for one part */
    int32_t *position, *output_row;
    const Segment **segment_of;
    Stretch *stretch;
    const Low **low, **output_low;
    float *hidden, *wide, *angles;             /* [rows][padded hidden], [rows][qkv or hidden], [ROPES][rows][head_dim] */
    unit *x, *attended, *fed;                  /* inputs of matrices, [rows][units] */
    unit *query, *s;                           /* [kv_heads][rows][group][units]; [rows][PARTS][ranks] */
} Engine;

INLINE Engine *engine_of(const Thread *me) { return (Engine *)me->pool; }
