/* The program of a model, built by the driver's compiler; and kept on disk, as that takes seconds.
 * A file that cannot be read, or that is not of this program, device and driver, is written anew;
 * one that cannot be written is left out. */
#define _GNU_SOURCE
#include "canao_model.h"
#include "opencl_host.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATH = 1024, OPTIONS = 64, IDENTITY = 1024, LINE = 400 };
enum { MOST_KEPT = 64 << 20, MOST_LOGGED = 1 << 20, ROOM = 256 << 20 }; /* bytes */
enum { MOST_FILES = 256, AT_ONCE = 16 }; /* kept programs, and how many go with each new one */

/* FNV-1a and FNV-1, of 64 bits each. */
struct hash {
    uint64_t a, b;
};

static const struct hash nothing = {0xcbf29ce484222325u, 0xcbf29ce484222325u};

static struct hash hashed(struct hash h, const void *data, size_t size)
{
    const uint64_t prime = 0x100000001b3u;
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) {
        h.a = (h.a ^ bytes[i]) * prime;
        h.b = h.b * prime ^ bytes[i];
    }
    return h;
}

/* What a kept program was built of, and by what. */
struct key {
    struct hash hash; /* of all of it */
    char identity[IDENTITY];
};

/* Before the identity and the binary in a file. */
struct head {
    char magic[8];
    struct hash key, binary;
    uint64_t identity_bytes, binary_bytes;
};

static const char magic[8] = {'C', 'A', 'N', 'A', 'O', 'C', 'L', '1'};

static struct key make_key(const struct device *device, const struct program_text *text,
                           const char *options)
{
    struct key key = {.hash = nothing};
    snprintf(key.identity, sizeof key.identity, "%s\n%s\n%s\n%s\n", device->name, device->driver,
             device->platform_name, device->platform_version);
    key.hash = hashed(key.hash, key.identity, strlen(key.identity) + 1);
    key.hash = hashed(key.hash, options, strlen(options) + 1);
    for (int i = 0; i < text->count; i++)
        key.hash = hashed(key.hash, text->pieces[i], strlen(text->pieces[i]));
    return key;
}

/* The folder of kept programs; 0 if there shall be none, or the name is too long. */
static int find_folder(char *path)
{
    const char *named = getenv("CANAO_OPENCL_CACHE"), *caches = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int length = 0;
    if (named)
        length = snprintf(path, PATH, "%s", named);
    else if (caches && *caches == '/')
        length = snprintf(path, PATH, "%s/canao/opencl", caches);
    else if (home && *home)
        length = snprintf(path, PATH, "%s/.cache/canao/opencl", home);
    return length > 0 && length < PATH;
}

/* Where a program is kept; 0 if nowhere. */
static int find_file(const struct key *key, char *path)
{
    char folder[PATH];
    if (!find_folder(folder))
        return 0;
    const int length = snprintf(path, PATH, "%s/%016llx%016llx.bin", folder,
                                (unsigned long long)key->hash.a, (unsigned long long)key->hash.b);
    return length > 0 && length < PATH;
}

/* The content of a file that is this user's alone; NULL if it is not, or cannot be read. */
static unsigned char *read_own(const char *path, size_t *size)
{
    struct stat info;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return NULL;
    unsigned char *content = NULL;
    size_t got = 0;
    if (!fstat(fd, &info) && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
        !(info.st_mode & (S_IWGRP | S_IWOTH)) && info.st_size > 0 && info.st_size <= MOST_KEPT) {
        *size = (size_t)info.st_size;
        content = malloc(*size);
    }
    while (content && got < *size) {
        const ssize_t more = read(fd, content + got, *size - got);
        if (more <= 0)
            break;
        got += (size_t)more;
    }
    close(fd);
    if (content && got < *size) {
        free(content);
        content = NULL;
    }
    return content;
}

/* The binary in a file of `size` bytes; NULL if it is not that of the key, whole and unchanged. */
static const unsigned char *find_binary(const unsigned char *file, size_t size,
                                        const struct key *key, size_t *bytes)
{
    struct head head;
    const size_t named = strlen(key->identity) + 1;
    if (size < sizeof head + named)
        return NULL;
    memcpy(&head, file, sizeof head);
    if (memcmp(head.magic, magic, sizeof magic) || memcmp(&head.key, &key->hash, sizeof head.key) ||
        head.identity_bytes != named || head.binary_bytes != size - sizeof head - named ||
        memcmp(file + sizeof head, key->identity, named))
        return NULL;
    const unsigned char *binary = file + sizeof head + named;
    *bytes = size - sizeof head - named;
    const struct hash found = hashed(nothing, binary, *bytes);
    return memcmp(&found, &head.binary, sizeof found) ? NULL : binary;
}

/* The kept program, built; NULL if there is none that can be. */
static cl_program recall(cl_context context, const struct device *device, const struct key *key,
                         const char *options)
{
    char path[PATH];
    size_t size = 0, bytes = 0;
    unsigned char *file = find_file(key, path) ? read_own(path, &size) : NULL;
    const unsigned char *binary = file ? find_binary(file, size, key, &bytes) : NULL;
    cl_int code = CL_SUCCESS, taken = CL_SUCCESS;
    cl_program program = NULL;
    if (binary) {
        const struct timespec used[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
        utimensat(AT_FDCWD, path, used, 0);
    }
    if (binary)
        program = canao_cl.create_program_with_binary(context, 1, &device->id, &bytes, &binary,
                                                      &taken, &code);
    if (program && (code || taken ||
                    canao_cl.build_program(program, 1, &device->id, options, NULL, NULL))) {
        canao_cl.release_program(program);
        program = NULL;
    }
    free(file);
    return program;
}

/* Makes a folder and those that it is in. */
static void make_folder(char *path)
{
    for (char *c = path + 1; *c; c++)
        if (*c == '/') {
            *c = 0;
            mkdir(path, 0700);
            *c = '/';
        }
    mkdir(path, 0700);
}

static int write_all(int fd, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    while (size) {
        const ssize_t done = write(fd, bytes, size);
        if (done <= 0)
            return 0;
        bytes += done;
        size -= (size_t)done;
    }
    return 1;
}

/* Writes a file beside its place, and moves it there when it is whole. */
static void write_file(const char *path, const struct key *key, const unsigned char *binary,
                       size_t bytes)
{
    static atomic_uint count;
    char beside[PATH + 64];
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(beside, sizeof beside, "%s.%d.%lld%09ld.%u", path, (int)getpid(),
             (long long)t.tv_sec, t.tv_nsec, atomic_fetch_add(&count, 1));
    const int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    const size_t named = strlen(key->identity) + 1;
    struct head head = {.key = key->hash, .binary = hashed(nothing, binary, bytes),
                        .identity_bytes = named, .binary_bytes = bytes};
    memcpy(head.magic, magic, sizeof magic);
    int whole = write_all(fd, &head, sizeof head) && write_all(fd, key->identity, named) &&
                write_all(fd, binary, bytes);
    if (close(fd))
        whole = 0;
    if (!whole || rename(beside, path))
        unlink(beside);
}

/* Whether a file has the name of a kept program: others may lie in the folder. */
static int is_kept(const char *name)
{
    enum { DIGITS = 32 };
    return strspn(name, "0123456789abcdef") == DIGITS && !strcmp(name + DIGITS, ".bin");
}

/* The kept program that was used longest ago, once there are too many or too large ones; 0: there are
 * not. */
static int find_oldest(const char *folder, char *oldest)
{
    DIR *files = opendir(folder);
    int count = 0;
    int64_t bytes = 0, used = 0;
    for (const struct dirent *entry; files && (entry = readdir(files));) {
        char path[PATH];
        struct stat info;
        if (!is_kept(entry->d_name) ||
            snprintf(path, PATH, "%s/%s", folder, entry->d_name) >= PATH || stat(path, &info) ||
            !S_ISREG(info.st_mode))
            continue;
        bytes += info.st_size;
        if (!count++ || info.st_atime < used) {
            used = info.st_atime;
            memcpy(oldest, path, PATH);
        }
    }
    if (files)
        closedir(files);
    return count > MOST_FILES || bytes > ROOM;
}

/* Keeps a built program, if its driver gives it away and there is a place for it. */
static void keep(cl_program program, const struct key *key)
{
    char folder[PATH], path[PATH];
    size_t bytes = 0;
    if (!find_folder(folder) || !find_file(key, path) ||
        canao_cl.get_program_info(program, CL_PROGRAM_BINARY_SIZES, sizeof bytes, &bytes, NULL) ||
        !bytes || bytes > MOST_KEPT - sizeof(struct head) - IDENTITY)
        return;
    unsigned char *binary = malloc(bytes);
    if (binary &&
        !canao_cl.get_program_info(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL)) {
        make_folder(folder);
        write_file(path, key, binary, bytes);
        for (int i = 0; i < AT_ONCE && find_oldest(folder, path); i++)
            unlink(path);
    }
    free(binary);
}

int canao_opencl_launches(void)
{
    return canao_describe()->step_count + canao_gpu.probes.launch_count;
}

const struct canao_launch *canao_opencl_launch(int i)
{
    const int steps = canao_describe()->step_count;
    return i < steps ? &canao_gpu.launches[i] : &canao_gpu.probes.launches[i - steps];
}

int canao_opencl_mentions(const char *text, const char *end, const char *part)
{
    const size_t length = strlen(part);
    for (; (size_t)(end - text) >= length; text++) {
        size_t i = 0;
        while (i < length && (text[i] | 0x20) == (part[i] | 0x20))
            i++;
        if (i == length)
            return 1;
    }
    return 0;
}

/* The first line of a compiler's log that speaks of an error, or else its first. */
static void find_line(const char *log, char *line)
{
    int found = 0;
    for (const char *start = log, *end = log; *start && !found; start = *end ? end + 1 : end) {
        end = strchr(start, '\n');
        end = end ? end : start + strlen(start);
        found = canao_opencl_mentions(start, end, "error");
        if (end > start && (found || !*line))
            snprintf(line, LINE, "%.*s", (int)(end - start < LINE ? end - start : LINE), start);
    }
}

static void read_log(cl_program program, cl_device_id device, char *line)
{
    size_t size = 0;
    if (canao_cl.get_program_build_info(program, device, CL_PROGRAM_BUILD_LOG, 0, NULL, &size) ||
        !size || size > MOST_LOGGED)
        return;
    char *log = calloc(1, size + 1);
    if (log && !canao_cl.get_program_build_info(program, device, CL_PROGRAM_BUILD_LOG, size, log,
                                                NULL))
        find_line(log, line);
    free(log);
}

/* The kernel that a line of the log names; NULL if it names none. */
static const char *named_kernel(const char *line)
{
    for (int i = 0; i < canao_opencl_launches(); i++) {
        const char *kernel = canao_opencl_launch(i)->kernel;
        if (kernel && strstr(line, kernel))
            return kernel;
    }
    return NULL;
}

static int fail_to_build(cl_program program, const struct device *device, cl_int code)
{
    char line[LINE] = "";
    read_log(program, device->id, line);
    const char *kernel = named_kernel(line);
    return canao_opencl_fail(
        "the compiler of %s (driver %.*s) refuses %s%s: %s (OpenCL error %d); update the driver",
        device->name, CANAO_SHOWN, device->driver, kernel ? "kernel " : "the kernels",
        kernel ? kernel : "", *line ? line : canao_opencl_error(code), (int)code);
}

/* Options number i of those that are tried; NULL if they are not for this device. */
static const char *find_options(const struct device *device, int i)
{
    if (i == canao_gpu.quicker_count)
        return canao_gpu.options;
    const struct canao_options *quicker = &canao_gpu.quicker[i];
    return !quicker->extension || canao_opencl_has(device->id, quicker->extension)
               ? quicker->options
               : NULL;
}

/* Options with those that leave one kernel of the source; NULL: no memory. */
static char *make_options(const char *options, const char *kernel)
{
    const size_t room = strlen(options) + (kernel ? strlen(kernel) : 0) + OPTIONS;
    char *all = malloc(room);
    if (all && kernel)
        snprintf(all, room, "%s -D CANAO_ONLY -D CANAO_ONLY_%s", options, kernel);
    else if (all)
        snprintf(all, room, "%s", options);
    return all;
}

/* Builds a program; `last`: no other options are left to try. CANAO_OK without a program: there are,
 * and it was refused with these. */
static int build(cl_context context, const struct device *device, const struct program_text *text,
                 const char *options, int last, cl_program *program, cl_int *code)
{
    *program = canao_cl.create_program_with_source(context, (cl_uint)text->count,
                                                   (const char **)text->pieces, NULL, code);
    if (!*program)
        return canao_opencl_fail("%s takes no program: %s (OpenCL error %d)", device->name,
                                 canao_opencl_error(*code), (int)*code);
    *code = canao_cl.build_program(*program, 1, &device->id, options, NULL, NULL);
    if (*code && last)
        return fail_to_build(*program, device, *code);
    if (*code) {
        canao_cl.release_program(*program);
        *program = NULL;
        *code = CL_SUCCESS;
        return CANAO_OK;
    }
    const struct key key = make_key(device, text, options);
    keep(*program, &key);
    return CANAO_OK;
}

int canao_opencl_build(cl_context context, const struct device *device,
                       const struct program_text *text, cl_program *program, cl_int *code)
{
    const int last = canao_gpu.quicker_count;
    int status = CANAO_OK;
    *program = NULL;
    for (int turn = 0; turn < 2; turn++) /* what is kept before what is built */
        for (int i = 0; i <= last && !*program && !status; i++) {
            const char *found = find_options(device, i);
            char *options = found ? make_options(found, text->kernel) : NULL;
            if (!found)
                continue;
            if (!options)
                return CANAO_MEMORY;
            const struct key key = make_key(device, text, options);
            if (!turn)
                *program = recall(context, device, &key, options);
            else
                status = build(context, device, text, options, i == last, program, code);
            free(options);
        }
    return status;
}
