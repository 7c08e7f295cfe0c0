/* What is known to be wrong with drivers, and what the probes say of the one that is here. The table
 * and what is right are data of the program (canao_launch.h). */
#include "canao_model.h"
#include "opencl_host.h"

#include <stdio.h>
#include <string.h>

enum { WORD = 32, KNOWN = 400 };

/* Whether a device is one of those that a defect is known of. */
static int is_known_of(const struct canao_defect *defect, const struct device *d)
{
    const char *const texts[] = {d->name, d->version, d->platform_name, d->platform_version,
                                 d->driver};
    for (const char *const *part = defect->met; *part; part++)
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
            if (canao_opencl_mentions(texts[i], texts[i] + strlen(texts[i]), *part))
                return 1;
    return 0;
}

int canao_opencl_apart(const struct device *device)
{
    for (int i = 0; i < canao_gpu.defect_count; i++)
        if (canao_gpu.defects[i].apart && is_known_of(&canao_gpu.defects[i], device))
            return 1;
    return 0;
}

/* The first defect that a check finds and that is known of a device; NULL if there is none. */
static const struct canao_defect *find_defect(const struct device *device, const char *check)
{
    for (int i = 0; i < canao_gpu.defect_count; i++) {
        const struct canao_defect *defect = &canao_gpu.defects[i];
        if (!strcmp(defect->check, check) && is_known_of(defect, device))
            return defect;
    }
    return NULL;
}

static float as_float(uint32_t word)
{
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static int is_right(const struct canao_check *check, uint32_t got, uint32_t right)
{
    const float a = as_float(got), b = as_float(right);
    if (got == right)
        return 1;
    if (check->bits || right == canao_gpu.probes.blank || got == canao_gpu.probes.blank)
        return 0;
    if (b != b)
        return a != a;
    const float size = b < 0.0f ? -b : b, off = a < b ? b - a : a - b;
    return off <= check->relative * (size > check->least ? size : check->least);
}

static void show(char *text, const struct canao_check *check, uint32_t word)
{
    if (word == canao_gpu.probes.blank)
        snprintf(text, WORD, "nothing");
    else if (check->bits)
        snprintf(text, WORD, "0x%08lx", (unsigned long)word);
    else
        snprintf(text, WORD, "%.9g", (double)as_float(word));
}

static int fail_as_wrong(const struct device *device, const struct canao_check *check, uint32_t got,
                         uint32_t right)
{
    char is[WORD], should[WORD], known[KNOWN] = "";
    const struct canao_defect *defect = find_defect(device, check->name);
    show(is, check, got);
    show(should, check, right);
    if (defect)
        snprintf(known, KNOWN, ", which is known: %s (%s)", defect->wrong, defect->source);
    return canao_opencl_fail("%s (driver %.*s) computes wrong: %s gives %s where %s is right%s; "
                             "update the driver, or take the CPU: compile the model with "
                             "--backend cpu", device->name, CANAO_SHOWN, device->driver,
                             check->what, is, should, known);
}

int canao_opencl_judge(const struct device *device, const unsigned char *got)
{
    const struct canao_probes *probes = &canao_gpu.probes;
    for (int i = 0; i < probes->check_count; i++) {
        const struct canao_check *check = &probes->checks[i];
        for (int k = check->first; k < check->first + check->count; k++) {
            uint32_t word;
            memcpy(&word, got + sizeof word * (size_t)k, sizeof word);
            if (!is_right(check, word, probes->right[k]))
                return fail_as_wrong(device, check, word, probes->right[k]);
        }
    }
    return CANAO_OK;
}
