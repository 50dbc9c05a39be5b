/* Threads that share work: a run is a row of phases, a phase is a number of tasks, and whoever is free takes the next one.
 * Nobody waits for a thread that holds no task. Knows nothing of what the tasks are. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SPINS 4000  /* looks at a value before a thread sleeps for it: about as long as it takes to wake one up */

typedef struct { _Alignas(64) _Atomic uint64_t value; } Counter;
typedef struct Pool Pool;

typedef struct Thread {
    Pool *pool;
    pthread_t handle;
    int index, done;                           /* tasks that it has done in its phase */
    uint32_t phase;
} Thread;

struct Pool {
    void (*work)(Thread *);                    /* what a run does, on every thread */
    int count, started;
    Thread *threads;                           /* the first one is whoever calls */
    pthread_mutex_t mutex;
    pthread_cond_t wake, turn;                 /* a run begins; a phase or a thread has ended */
    unsigned runs;
    int open, closing;                         /* `open`: one runs, and threads may still join in */
    uint32_t first_phase;
    Counter *taken;                            /* by thread: the phase, and in the low half how many tasks of its share are taken */
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_uint phase;
    _Alignas(64) atomic_uint active;
    _Alignas(64) atomic_int sleepers;          /* threads that wait for `turn` */
};

/* The next task of the phase that `me` is in, or `tasks`. Each thread goes through its own share in order, as memory likes
 * it, then helps the others. A phase that is over has none left: a thread that was kept away runs after the others. */
static int take(Thread *me, int tasks)
{
    Pool *pool = me->pool;
    long threads = pool->count;
    for (int i = 0; i < threads; i++) {
        long owner = (me->index + i) % threads, end = (owner + 1) * tasks / threads - owner * tasks / threads;
        uint64_t taken = atomic_load_explicit(&pool->taken[owner].value, memory_order_acquire);
        while (taken >> 32 == me->phase && (long)(taken & UINT32_MAX) < end)
            if (atomic_compare_exchange_weak(&pool->taken[owner].value, &taken, taken + 1)) {
                me->done++;
                return owner * tasks / threads + (taken & UINT32_MAX);
            }
    }
    return tasks;
}

/* Wait until `*value` is no longer `old`: look for a while, then sleep. Not by yielding: a thread that yields over and over
 * falls behind in the system's accounts, and may stand still for seconds when somebody else comes. */
static void await(Pool *pool, atomic_uint *value, unsigned old)
{
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(value, memory_order_acquire) != old)
            return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(value) == old)
        pthread_cond_wait(&pool->turn, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void announce(Pool *pool)                /* that a value has changed */
{
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->turn);
        pthread_mutex_unlock(&pool->mutex);
    }
}

/* Leave the phase of `tasks` tasks that `me` is in: wait until all of them are done, by whomever. */
static void leave(Thread *me, int tasks)
{
    Pool *pool = me->pool;
    int done = me->done;
    me->done = 0;
    if (done && atomic_fetch_add(&pool->done, done) + done == tasks) {
        atomic_store(&pool->done, 0);
        for (int i = 0; i < pool->count; i++)
            atomic_store(&pool->taken[i].value, (uint64_t)(me->phase + 1) << 32);
        atomic_store(&pool->phase, me->phase + 1);
        announce(pool);
    }
    if (tasks)
        await(pool, &pool->phase, me->phase++);
}

/* A phase: its tasks, dealt to all threads; behind it, everything that they have written is there. */
#define EACH(i, tasks) for (int i, tasks_ = (tasks); (i = take(me, tasks_)) < tasks_ || (leave(me, tasks_), 0);)

static void *wait_for_work(void *given)
{
    Thread *me = given;
    Pool *pool = me->pool;
    unsigned runs = 0;
    for (;;) {
        pthread_mutex_lock(&pool->mutex);
        while (!pool->closing && (!pool->open || pool->runs == runs))
            pthread_cond_wait(&pool->wake, &pool->mutex);
        int closing = pool->closing;
        runs = pool->runs;
        me->phase = pool->first_phase;
        atomic_fetch_add(&pool->active, 1);
        pthread_mutex_unlock(&pool->mutex);
        if (closing)
            return NULL;
        pool->work(me);
        atomic_fetch_sub(&pool->active, 1);
        announce(pool);
    }
}

static void set_open(Pool *pool, int open)
{
    pthread_mutex_lock(&pool->mutex);
    pool->open = open;
    pool->runs += open;
    pool->first_phase = pool->threads->phase;
    if (open)
        pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static void run(Pool *pool)                     /* the work, once, on all threads */
{
    set_open(pool, 1);
    pool->work(pool->threads);
    set_open(pool, 0);
    for (unsigned active; (active = atomic_load(&pool->active));)
        await(pool, &pool->active, active);
}

static void close_pool(Pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    pool->closing = 1;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 1; i < pool->started; i++)
        pthread_join(pool->threads[i].handle, NULL);
    free(pool->threads);
    free(pool->taken);
}

static int grow(void *slot, long bytes)                 /* zeroed memory, a cache line at a time, in place of the old */
{
    void **pointer = slot;
    long size = (bytes + 127) / 64 * 64;
    free(*pointer);
    *pointer = aligned_alloc(64, size);
    if (*pointer)
        memset(*pointer, 0, size);
    return *pointer != NULL;
}

static int open_pool(Pool *pool, int count, void (*work)(Thread *))     /* zeroed memory; 0: no memory, or no threads */
{
    pool->work = work;
    pool->count = count;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->turn, NULL);
    if (grow(&pool->threads, sizeof *pool->threads * count) && grow(&pool->taken, sizeof *pool->taken * count))
        for (; pool->started < count; pool->started++) {
            Thread *thread = &pool->threads[pool->started];
            *thread = (Thread){.pool = pool, .index = pool->started};
            if (pool->started && pthread_create(&thread->handle, NULL, wait_for_work, thread))
                break;
        }
    if (pool->started == count)
        return 1;
    close_pool(pool);
    return 0;
}
