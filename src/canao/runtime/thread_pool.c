/* A persistent thread pool. The caller is thread 0; workers spin for a short time and then
 * sleep, so that an idle model costs nothing and a busy one starts in about a microsecond. */
#define _GNU_SOURCE
#include "canao_runtime.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { SPINS = 20000 };

struct worker {
    canao_pool *pool;
    int thread;
    int core;
    pthread_t id;
};

struct canao_pool {
    int threads;
    canao_work work;
    void *context;
    atomic_uint round;    /* grows when work is handed out */
    atomic_int running;   /* workers that have not finished this round */
    atomic_int waiting;   /* threads that stand at the barrier */
    atomic_uint passed;   /* barriers that all threads have left */
    atomic_int stopping;
    atomic_int failed; /* workers that could not be pinned */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct worker workers[];
};

static inline void pause_briefly(int spin)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
    /* With more threads than cores the one waited for needs this core. */
    if (spin % 1024 == 1023)
        sched_yield();
}

int canao_pin(int core)
{
#if defined(__linux__)
    cpu_set_t set;
    if (core < 0 || core >= CPU_SETSIZE)
        return -1;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    return sched_setaffinity(0, sizeof set, &set);
#else
    (void)core;
    return -1;
#endif
}

/* Where Linux describes its processors. */
#ifndef CANAO_CPUS
#define CANAO_CPUS "/sys/devices/system/cpu"
#endif

int canao_core_capacity(int core)
{
    char path[sizeof CANAO_CPUS + 40];
    int capacity = 0;
    snprintf(path, sizeof path, CANAO_CPUS "/cpu%d/cpu_capacity", core);
    FILE *file = fopen(path, "re");
    if (file && (fscanf(file, "%d", &capacity) != 1 || capacity < 1 || capacity > 1024))
        capacity = 0;
    if (file)
        fclose(file);
    return capacity;
}

static unsigned await_round(canao_pool *pool, unsigned seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        const unsigned round = atomic_load_explicit(&pool->round, memory_order_acquire);
        if (round != seen)
            return round;
        pause_briefly(spin);
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->round, memory_order_acquire) == seen)
        pthread_cond_wait(&pool->wake, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return atomic_load_explicit(&pool->round, memory_order_acquire);
}

static void *serve(void *argument)
{
    struct worker *self = argument;
    canao_pool *pool = self->pool;
    unsigned seen = 0;
    if (self->core >= 0 && canao_pin(self->core))
        atomic_fetch_add(&pool->failed, 1);
    atomic_fetch_sub_explicit(&pool->running, 1, memory_order_release);
    for (;;) {
        seen = await_round(pool, seen);
        if (atomic_load_explicit(&pool->stopping, memory_order_relaxed))
            return NULL;
        pool->work(pool->context, self->thread);
        atomic_fetch_sub_explicit(&pool->running, 1, memory_order_release);
    }
}

static void hand_out(canao_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->round, 1, memory_order_release);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void await_all(canao_pool *pool)
{
    for (int spin = 0; atomic_load_explicit(&pool->running, memory_order_acquire) > 0; spin++)
        pause_briefly(spin);
}

canao_pool *canao_pool_start(int threads, const int *cores)
{
    canao_pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof(struct worker));
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = 1;
    for (int t = 1; t < threads; t++) {
        struct worker *w = &pool->workers[t];
        w->pool = pool;
        w->thread = t;
        w->core = cores ? cores[t] : -1;
        atomic_fetch_add(&pool->running, 1);
        if (pthread_create(&w->id, NULL, serve, w)) {
            atomic_fetch_sub(&pool->running, 1);
            canao_pool_stop(pool);
            return NULL;
        }
        pool->threads++;
    }
    await_all(pool);
    if (atomic_load(&pool->failed)) {
        canao_pool_stop(pool);
        return NULL;
    }
    return pool;
}

void canao_pool_run(canao_pool *pool, canao_work work, void *context)
{
    if (pool->threads > 1) {
        pool->work = work;
        pool->context = context;
        atomic_store_explicit(&pool->running, pool->threads - 1, memory_order_relaxed);
        hand_out(pool);
    }
    work(context, 0);
    await_all(pool);
}

void canao_pool_barrier(canao_pool *pool)
{
    if (pool->threads == 1)
        return;
    const unsigned before = atomic_load_explicit(&pool->passed, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->waiting, 1, memory_order_acq_rel) == pool->threads - 1) {
        atomic_store_explicit(&pool->waiting, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&pool->passed, 1, memory_order_release);
        return;
    }
    for (int spin = 0;
         atomic_load_explicit(&pool->passed, memory_order_acquire) == before; spin++)
        pause_briefly(spin);
}

void canao_pool_stop(canao_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stopping, 1);
    hand_out(pool);
    for (int t = 1; t < pool->threads; t++)
        pthread_join(pool->workers[t].id, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void canao_pool_abandon(canao_pool *pool)
{
    /* No thread of this process waits for its lock, so that it needs no end. */
    free(pool);
}
