"""Android: what its libraries and programs may call, and how ziglang alone links them.

Android's C library, bionic, comes with its NDK only. Objects are compiled with the headers of musl,
whose types and constants are the same wherever the runtime uses them, and linked with files that
have the names below and nothing behind them: on a phone the loader finds bionic instead. So what
the oldest Android lacks is found when a library is built, and not on a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from canao.errors import ToolchainError
from canao.target import Target

NDK_HOME = "ANDROID_NDK_HOME"
LOADER = "/system/bin/linker64"
# Of the runtime: what a program begins with.
START = "android_start.c"
# What linkers are told: all that is called is in a library that is named, and no other is needed.
LINKING = ("-Wl,--no-undefined", "-Wl,--as-needed")

# What libraries and programs may call, by the library that has it: all of it is there at API 21
# (bionic, libc/libc.map.txt and libdl/libdl.map.txt). Not `stdout`, `stderr` and `open_memstream`
# (23), `aligned_alloc` and `getrandom` (28). What has other numbers or names in bionic than in musl
# may not be here either: `sysconf`, and `errno`.
SYMBOLS: Mapping[str, tuple[str, ...]] = {
    "libc.so": (
        "__libc_init", "__sched_cpucount", "abort", "atoi", "atol", "calloc", "clock_gettime",
        "close", "closedir", "dprintf", "exit", "fclose", "feof", "ferror", "fflush", "fgetc",
        "fgets", "fopen", "fprintf", "fputc", "fputs", "fread", "free", "fscanf", "fseek", "fseeko",
        "fstat", "ftell", "ftello", "fwrite", "getauxval", "getenv", "geteuid", "getline", "getpid",
        "gettid", "lseek", "madvise", "malloc", "memchr", "memcmp", "memcpy", "memmove", "memset",
        "mkdir", "mmap", "mprotect", "munmap", "nanosleep", "open", "opendir", "posix_memalign",
        "pread", "printf", "pthread_atfork", "pthread_cond_broadcast", "pthread_cond_destroy",
        "pthread_cond_init", "pthread_cond_signal", "pthread_cond_wait", "pthread_create",
        "pthread_getspecific", "pthread_join", "pthread_key_create", "pthread_mutex_destroy",
        "pthread_mutex_init", "pthread_mutex_lock", "pthread_mutex_trylock", "pthread_mutex_unlock",
        "pthread_once", "pthread_self", "pthread_setspecific", "putchar", "puts", "qsort", "read",
        "readdir", "realloc", "realpath", "rename", "sched_getaffinity", "sched_getcpu",
        "sched_setaffinity", "sched_yield", "snprintf", "sscanf", "stat", "strchr", "strcmp",
        "strcpy", "strcspn", "strdup", "strlen", "strncmp", "strncpy", "strrchr", "strspn",
        "strstr", "strtod", "strtof", "strtok", "strtok_r", "strtol", "strtoll", "strtoul",
        "strtoull", "syscall", "unlink", "utimensat", "vdprintf", "vprintf", "vsnprintf", "write",
    ),
    "libdl.so": ("dladdr", "dlclose", "dlerror", "dlopen", "dlsym"),
}  # fmt: skip


def zig_flags(target: Target) -> tuple[str, ...]:
    """What ziglang's clang has to be told of Android, as it takes the target for another one."""
    # The system keeps x18 for itself, and functions for atomics are in a library of compilers;
    # programs lie anywhere in memory as libraries do.
    own = ("-ffixed-x18", "-mno-outline-atomics") if target.arch == "aarch64" else ()
    # bionic has no bcmp, which clang calls in memcmp's place where musl is.
    kept = ("-fno-stack-protector", "-fno-builtin-bcmp")
    return ("-target", f"{target.arch}-linux-musl", "-fPIC", *kept, *own)


def ndk_flags(target: Target) -> tuple[str, ...]:
    """What the NDK's clang has to be told of a target."""
    # Functions that choose the instructions of atomics would run when a library is loaded.
    own = ("-mno-outline-atomics",) if target.arch == "aarch64" else ()
    return (f"--target={target.triple}", "-fPIC", *own)


def stub(library: str) -> str:
    """C of a library that has the names of SYMBOLS and nothing behind them."""
    lines = (f'"{n}:\\n.globl {n}\\n.type {n}, %function\\n"' for n in SYMBOLS[library])
    return "\n".join(('__asm__(".text\\n"', *lines, ");\n"))


def linked_with(flags: Sequence[str]) -> tuple[str, ...]:
    """The libraries of SYMBOLS that flags of a compiler name, and the C library. ToolchainError for
    one that is not there."""
    names = ("libc.so", *(f"lib{flag[2:]}.so" for flag in flags if flag.startswith("-l")))
    for name in names:
        if name not in SYMBOLS:
            raise ToolchainError(
                f"{name}: code for Android is linked with {' and '.join(SYMBOLS)} only; "
                "leave it out"
            )
    return names


def ndk_clang(home: str) -> str:
    """The clang of the NDK in a directory. ToolchainError if there is none."""
    found = sorted(Path(home).glob("toolchains/llvm/prebuilt/*/bin/clang"))
    if not found:
        raise ToolchainError(
            f"{NDK_HOME}: no toolchains/llvm/prebuilt/*/bin/clang in {home}; name the directory of "
            "an NDK, or unset it to build with ziglang"
        )
    return str(found[0])
