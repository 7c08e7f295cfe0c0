/* The first function of a program for Android, which the NDK has in crtbegin_dynamic.o. bionic wants
 * the stack as the kernel left it: the number of arguments, then these. */
int main(int argc, char **argv, char **environment);

/* Functions to be called before main and after it, for each kind a list. The programs have none; newer
 * systems look for more lists than older ones. */
static void *const structors[8];

_Noreturn void __libc_init(void *stack, void (*on_exit)(void),
                           int (*start)(int, char **, char **), void *const *lists);

__attribute__((used)) _Noreturn static void begin(void *stack)
{
    __libc_init(stack, 0, main, structors);
}

#if defined(__aarch64__)
__asm__(".text\n.global _start\n.type _start, %function\n"
        "_start: mov x29, xzr\n mov x30, xzr\n mov x0, sp\n b begin\n");
#elif defined(__x86_64__)
__asm__(".text\n.global _start\n.type _start, @function\n"
        "_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#endif
