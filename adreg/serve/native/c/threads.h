/* The engine's state, and how its threads share the work: a step is a row of phases, a phase is a number of tasks, and
 * whoever is free takes the next one. Nobody waits for a thread that holds no task. */
#include <pthread.h>
#include <stdatomic.h>

#define SPINS 4000  /* looks at a value before a thread sleeps for it: about as long as it takes to wake one up */

typedef struct { _Alignas(64) _Atomic uint64_t value; } Counter;
typedef struct { int row, count; } Stretch;    /* neighbouring rows of one sequence that attend together */

typedef struct {
    const Model *model;
    struct Thread *threads;                    /* the first one is whoever calls */
    float *scores;                             /* [threads][BLOCK][longest] */
    pthread_mutex_t mutex;
    pthread_cond_t wake, turn;                 /* a step begins; a phase or a thread has ended */
    unsigned steps;
    int open, closing, started;                /* `open`: a step runs, and threads may still join in */
    uint32_t first_phase;
    Counter *taken;                            /* by thread: the phase, and in the low half how many tasks of its share are taken */
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_uint phase;
    _Alignas(64) atomic_uint active;
    _Alignas(64) atomic_int sleepers;          /* threads that wait for `turn` */
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

typedef struct Thread {
    Engine *engine;
    pthread_t handle;
    int index, done;                           /* tasks that it has done in its phase */
    uint32_t phase;
} Thread;

/* The next task of the phase that `me` is in, or `tasks`. Each thread goes through its own share in order, as memory likes
 * it, then helps the others. A phase that is over has none left: a thread that was kept away runs after the others. */
static int take(Thread *me, int tasks)
{
    Engine *e = me->engine;
    long threads = e->model->threads;
    for (int i = 0; i < threads; i++) {
        long owner = (me->index + i) % threads, end = (owner + 1) * tasks / threads - owner * tasks / threads;
        uint64_t taken = atomic_load_explicit(&e->taken[owner].value, memory_order_acquire);
        while (taken >> 32 == me->phase && (long)(taken & UINT32_MAX) < end)
            if (atomic_compare_exchange_weak(&e->taken[owner].value, &taken, taken + 1)) {
                me->done++;
                return owner * tasks / threads + (taken & UINT32_MAX);
            }
    }
    return tasks;
}

/* Wait until `*value` is no longer `old`: look for a while, then sleep. Not by yielding: a thread that yields over and over
 * falls behind in the system's accounts, and may stand still for seconds when somebody else comes. */
static void await(Engine *e, atomic_uint *value, unsigned old)
{
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(value, memory_order_acquire) != old)
            return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&e->mutex);
    atomic_fetch_add(&e->sleepers, 1);
    while (atomic_load(value) == old)
        pthread_cond_wait(&e->turn, &e->mutex);
    atomic_fetch_sub(&e->sleepers, 1);
    pthread_mutex_unlock(&e->mutex);
}

static void announce(Engine *e)                 /* that a value has changed */
{
    if (atomic_load(&e->sleepers)) {
        pthread_mutex_lock(&e->mutex);
        pthread_cond_broadcast(&e->turn);
        pthread_mutex_unlock(&e->mutex);
    }
}

/* Leave the phase of `tasks` tasks that `me` is in: wait until all of them are done, by whomever. */
static void leave(Thread *me, int tasks)
{
    Engine *e = me->engine;
    int done = me->done;
    me->done = 0;
    if (done && atomic_fetch_add(&e->done, done) + done == tasks) {
        atomic_store(&e->done, 0);
        for (int i = 0; i < e->model->threads; i++)
            atomic_store(&e->taken[i].value, (uint64_t)(me->phase + 1) << 32);
        atomic_store(&e->phase, me->phase + 1);
        announce(e);
    }
    if (tasks)
        await(e, &e->phase, me->phase++);
}

/* A phase: its tasks, dealt to all threads; behind it, everything that they have written is there. */
#define EACH(i, tasks) for (int i, tasks_ = (tasks); (i = take(me, tasks_)) < tasks_ || (leave(me, tasks_), 0);)
