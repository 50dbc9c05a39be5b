/* The engine's state, and how its threads share the work: a step is a row of phases, a phase is a number of tasks, and
 * whoever is free takes the next one. Nobody waits for a thread that holds no task. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

typedef struct { _Alignas(64) _Atomic uint64_t value; } Counter;
typedef struct { int row, count; } Stretch;    /* neighbouring rows of one sequence that attend together */

typedef struct {
    const Model *model;
    struct Thread *threads;                    /* the first one is whoever calls */
    float *scores;                             /* [threads][BLOCK][longest] */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    unsigned steps;
    int open, closing, started;                /* `open`: a step runs, and threads may still join in */
    uint32_t first_phase;
    Counter *taken;                            /* by thread: the phase, and in the low half how many tasks of its share are taken */
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_uint phase;
    _Alignas(64) atomic_int active;
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
    }
    for (int spins = 0; tasks && atomic_load_explicit(&e->phase, memory_order_acquire) == me->phase; spins++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if (spins > 2000)
            sched_yield();
    }
    me->phase += tasks > 0;
}

/* A phase: its tasks, dealt to all threads; behind it, everything that they have written is there. */
#define EACH(i, tasks) for (int i, tasks_ = (tasks); (i = take(me, tasks_)) < tasks_ || (leave(me, tasks_), 0);)
