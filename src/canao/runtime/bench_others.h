/* Readings of what runs on the machine, for a benchmark that takes one before its first sample and
 * one after its last. Each is a few lines of the report:
 *
 *   at WHEN nanoseconds ticks_a_second
 *   core WHEN number user nice system idle iowait irq softirq steal       in ticks
 *   thread WHEN id core ran waited                                        in nanoseconds, of its own
 *   clock WHEN nanoseconds kHz governor     of a fixed loop; 0 and - where the system does not tell
 *
 * What the system does not tell has no line. */
#ifndef CANAO_BENCH_OTHERS_H
#define CANAO_BENCH_OTHERS_H

#include <dirent.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

/* Lines of the report that are printed later: printing would take time between samples. Not a stream
 * in memory, which Android has from API 23 on. */
struct readings {
    char *text; /* all zero before the first line */
    size_t length, room;
    int lost; /* there was no memory for some of it */
};

static void note(struct readings *to, const char *format, ...)
{
    char line[512];
    va_list values;
    va_start(values, format);
    const int count = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    const size_t more = count < 0 ? sizeof line : (size_t)count;
    if (more < sizeof line && to->length + more >= to->room) {
        const size_t room = 2 * to->room + sizeof line;
        char *text = (char *)realloc(to->text, room);
        to->text = text ? text : to->text;
        to->room = text ? room : to->room;
    }
    if (more >= sizeof line || to->length + more >= to->room) {
        to->lost = 1;
        return;
    }
    memcpy(to->text + to->length, line, more + 1);
    to->length += more;
}

static void read_cores(struct readings *to, const char *when)
{
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen("/proc/stat", "r");
    while (file && getline(&line, &room, file) > 0 && !strncmp(line, "cpu", 3)) {
        unsigned long long core, t[8];
        if (sscanf(line, "cpu%llu %llu %llu %llu %llu %llu %llu %llu %llu", &core, &t[0], &t[1],
                   &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]) == 9)
            note(to, "core %s %llu %llu %llu %llu %llu %llu %llu %llu %llu\n", when, core, t[0],
                 t[1], t[2], t[3], t[4], t[5], t[6], t[7]);
    }
    if (file)
        fclose(file);
    free(line);
}

/* One line of a file of a thread; whether there was one. */
static int thread_line(const char *id, const char *name, char *line, int room)
{
    char path[96];
    snprintf(path, sizeof path, "/proc/self/task/%.20s/%s", id, name);
    FILE *file = fopen(path, "r");
    const int found = file && fgets(line, room, file);
    if (file)
        fclose(file);
    return found;
}

/* The core that a thread ran on last: field 39 of its stat, the 37th after the name. */
static int last_core(char *stat)
{
    char *word = strrchr(stat, ')');
    for (int i = 0; word && i < 37; i++)
        word = strchr(word + 1, ' ');
    return word ? atoi(word + 1) : -1;
}

static void read_threads(struct readings *to, const char *when, int own)
{
    DIR *folder = opendir("/proc/self/task");
    for (struct dirent *e; folder && (e = readdir(folder));) {
        char stat[1024], schedule[128];
        unsigned long long ran, waited;
        if (e->d_name[0] == '.' || !thread_line(e->d_name, "stat", stat, sizeof stat) ||
            !thread_line(e->d_name, "schedstat", schedule, sizeof schedule) ||
            sscanf(schedule, "%llu %llu", &ran, &waited) != 2)
            continue;
        /* schedstat tells what a running thread has had up to the last tick; its clock (the kernel's
         * number for it, as pthread_getcpuclockid makes it) up to now. */
        struct timespec t;
        if (!clock_gettime((clockid_t)((~(unsigned)atoi(e->d_name) << 3) | 6u), &t))
            ran = (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec;
        const int core = own >= 0 && atoi(e->d_name) == getpid() ? own : last_core(stat);
        note(to, "thread %s %.20s %d %llu %llu\n", when, e->d_name, core, ran, waited);
    }
    if (folder)
        closedir(folder);
}

static uint64_t others_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The least of several times of a chain of multiplications that each wait for the one before: how
 * long that takes follows from the core's clock alone. */
static uint64_t fixed_loop(void)
{
    static volatile uint64_t seed = 1;
    uint64_t least = UINT64_MAX;
    for (int turn = 0; turn < 5; turn++) {
        const uint64_t before = others_now();
        uint64_t x = seed;
        for (int i = 0; i < 20000; i++)
            x = x * 6364136223846793005u + 1442695040888963407u;
        seed = x;
        const uint64_t taken = others_now() - before;
        least = taken < least ? taken : least;
    }
    return least;
}

/* One word of a file of a core's clock, or `none`. */
static void clock_word(int core, const char *name, const char *none, char *word)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/%s", core, name);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%31s", word) != 1)
        strcpy(word, none);
    if (file)
        fclose(file);
}

/* own: the core that is looked at; less than 0: the one that this thread is on. */
static void read_clock(struct readings *to, const char *when, int own)
{
    cpu_set_t before, one;
    const int pinned = own >= 0 && !sched_getaffinity(0, sizeof before, &before);
    if (pinned) {
        CPU_ZERO(&one);
        CPU_SET(own, &one);
        sched_setaffinity(0, sizeof one, &one);
    }
    const uint64_t taken = fixed_loop();
    char khz[32], governor[32];
    const int core = own >= 0 ? own : sched_getcpu();
    clock_word(core, "scaling_cur_freq", "0", khz);
    clock_word(core, "scaling_governor", "-", governor);
    if (pinned)
        sched_setaffinity(0, sizeof before, &before);
    note(to, "clock %s %llu %s %s\n", when, (unsigned long long)taken, khz, governor);
}

/* own: the core of the thread that reads, which it is pinned to during calls only, and may have left
 * by now; less than 0 if it is pinned to none. */
static void read_others(struct readings *to, const char *when, int own)
{
    /* What sysconf(_SC_CLK_TCK) tells; its number is another one on Android. */
    const long ticks = (long)getauxval(AT_CLKTCK);
    note(to, "at %s %llu %ld\n", when, (unsigned long long)others_now(), ticks);
    read_cores(to, when);
    read_threads(to, when, own);
}

#endif
