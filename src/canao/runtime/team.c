/* A persistent team of threads. The caller is thread 0; workers spin for a short time and then
 * sleep, so that an idle model costs nothing and a busy one starts in about a microsecond. */
#define _GNU_SOURCE
#include "canao_runtime.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 20000 };

struct worker {
    canao_team *team;
    int thread;
    int core;
    pthread_t id;
};

struct canao_team {
    int threads;
    canao_work work;
    void *context;
    atomic_uint round;    /* grows when work is handed out */
    atomic_int running;   /* workers that have not finished this round */
    atomic_int waiting;   /* threads that stand at the barrier */
    atomic_uint meetings; /* barriers passed */
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

static unsigned await_round(canao_team *team, unsigned seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        const unsigned round = atomic_load_explicit(&team->round, memory_order_acquire);
        if (round != seen)
            return round;
        pause_briefly(spin);
    }
    pthread_mutex_lock(&team->lock);
    while (atomic_load_explicit(&team->round, memory_order_acquire) == seen)
        pthread_cond_wait(&team->wake, &team->lock);
    pthread_mutex_unlock(&team->lock);
    return atomic_load_explicit(&team->round, memory_order_acquire);
}

static void *serve(void *argument)
{
    struct worker *self = argument;
    canao_team *team = self->team;
    unsigned seen = 0;
    if (self->core >= 0 && canao_pin(self->core))
        atomic_fetch_add(&team->failed, 1);
    atomic_fetch_sub_explicit(&team->running, 1, memory_order_release);
    for (;;) {
        seen = await_round(team, seen);
        if (atomic_load_explicit(&team->stopping, memory_order_relaxed))
            return NULL;
        team->work(team->context, self->thread);
        atomic_fetch_sub_explicit(&team->running, 1, memory_order_release);
    }
}

static void hand_out(canao_team *team)
{
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add_explicit(&team->round, 1, memory_order_release);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
}

static void await_all(canao_team *team)
{
    for (int spin = 0; atomic_load_explicit(&team->running, memory_order_acquire) > 0; spin++)
        pause_briefly(spin);
}

canao_team *canao_team_start(int threads, const int *cores)
{
    canao_team *team = calloc(1, sizeof *team + (size_t)threads * sizeof(struct worker));
    if (!team)
        return NULL;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->wake, NULL);
    team->threads = 1;
    for (int t = 1; t < threads; t++) {
        struct worker *w = &team->workers[t];
        w->team = team;
        w->thread = t;
        w->core = cores ? cores[t] : -1;
        atomic_fetch_add(&team->running, 1);
        if (pthread_create(&w->id, NULL, serve, w)) {
            atomic_fetch_sub(&team->running, 1);
            canao_team_stop(team);
            return NULL;
        }
        team->threads++;
    }
    await_all(team);
    if (atomic_load(&team->failed)) {
        canao_team_stop(team);
        return NULL;
    }
    return team;
}

void canao_team_run(canao_team *team, canao_work work, void *context)
{
    if (team->threads > 1) {
        team->work = work;
        team->context = context;
        atomic_store_explicit(&team->running, team->threads - 1, memory_order_relaxed);
        hand_out(team);
    }
    work(context, 0);
    await_all(team);
}

void canao_team_meet(canao_team *team)
{
    if (team->threads == 1)
        return;
    const unsigned meeting = atomic_load_explicit(&team->meetings, memory_order_acquire);
    if (atomic_fetch_add_explicit(&team->waiting, 1, memory_order_acq_rel) == team->threads - 1) {
        atomic_store_explicit(&team->waiting, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&team->meetings, 1, memory_order_release);
        return;
    }
    for (int spin = 0;
         atomic_load_explicit(&team->meetings, memory_order_acquire) == meeting; spin++)
        pause_briefly(spin);
}

void canao_team_stop(canao_team *team)
{
    if (!team)
        return;
    atomic_store(&team->stopping, 1);
    hand_out(team);
    for (int t = 1; t < team->threads; t++)
        pthread_join(team->workers[t].id, NULL);
    pthread_cond_destroy(&team->wake);
    pthread_mutex_destroy(&team->lock);
    free(team);
}
