/* Which of the library's instruction sets this processor has. Compiled for the least processor, like
 * all of the runtime, and run before any kernel. */
#define _GNU_SOURCE
#include "canao_runtime.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* Whether the processor says that it has a feature, and whether the system lets programs use it. */
struct answer {
    int has, enabled;
};

#if defined(__x86_64__)
/* The registers that the system saves; 0 if it does not say so. */
static uint64_t saved_state(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) /* OSXSAVE */
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

/* Linux saves the blocks of AMX only for processes that have asked for it, which is for all of
 * their threads (Documentation/arch/x86/xstate.rst). */
static int granted(uint64_t state)
{
    enum { REQUEST = 0x1023, BLOCKS = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA */
    return !(state >> BLOCKS & 1) || !syscall(SYS_arch_prctl, REQUEST, BLOCKS);
}

static struct answer ask(const struct canao_feature *f)
{
    uint32_t words[4] = {0};
    __get_cpuid_count(f->source, f->part, &words[0], &words[1], &words[2], &words[3]);
    const int has = words[f->word] >> f->bit & 1;
    const int saved = has && (saved_state() & f->state) == f->state;
    return (struct answer){has, saved && granted(f->state)};
}
#elif defined(__aarch64__)
static struct answer ask(const struct canao_feature *f)
{
    return (struct answer){getauxval(f->source) >> f->bit & 1, 1};
}
#else
static struct answer ask(const struct canao_feature *f) { return (struct answer){!f, 1}; }
#endif

static const struct canao_level *level;
static char lacks[640];

/* Adds to the text; what has no room is left out. */
static void say(size_t *length, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int more = vsnprintf(lacks + *length, sizeof lacks - *length, format, arguments);
    va_end(arguments);
    if (more > 0)
        *length += (size_t)more;
    if (*length >= sizeof lacks)
        *length = sizeof lacks - 1;
}

static int missing(const struct canao_level *l)
{
    int count = 0;
    for (int i = 0; i < l->feature_count; i++) {
        const struct answer a = ask(&l->features[i]);
        count += !(a.has && a.enabled);
    }
    return count;
}

static void say_what_is_missing(const struct canao_level *l)
{
    size_t length = 0;
    say(&length, "this processor cannot run the kernels for %s: ", l->isa);
    const char *before = "it lacks ";
    for (int i = 0; i < l->feature_count; i++) {
        const struct answer a = ask(&l->features[i]);
        if (a.has && a.enabled)
            continue;
        say(&length, "%s%s%s", before, l->features[i].name,
            a.has ? " (the system has it switched off)" : "");
        before = ", ";
    }
    say(&length, "; compile the model with another --isa (scalar runs anywhere), "
                 "or with --target host here");
}

static void choose(void)
{
    for (int i = 0; i < canao_level_count && !level; i++)
        if (!missing(&canao_levels[i]))
            level = &canao_levels[i];
    if (!level)
        say_what_is_missing(&canao_levels[canao_level_count - 1]);
}

static void choose_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
}

const struct canao_level *canao_cpu_level(void)
{
    choose_once();
    return level;
}

const char *canao_cpu_lacks(void)
{
    choose_once();
    return level ? "the processor lacks what the kernels need" : lacks;
}
