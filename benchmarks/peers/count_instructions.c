/* A plugin of qemu-user: how many instructions a program runs, told when it ends. Debian's qemu-user
 * takes plugins and ships no header for them: what is used of it is declared here (API version 1,
 * https://www.qemu.org/docs/master/devel/tcg-plugins.html). */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct qemu_plugin_tb;
enum { ADD_U64 }; /* enum qemu_plugin_op */

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
                                           void (*translated)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *value,
                                              uint64_t by);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*ended)(uint64_t, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
void qemu_plugin_outs(const char *text);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* Added to without a lock: programs that are counted have one thread that works. */
static uint64_t instructions;

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &instructions,
                                             qemu_plugin_tb_n_insns(tb));
}

static void ended(uint64_t id, void *data)
{
    (void)id, (void)data;
    char line[64];
    snprintf(line, sizeof line, "instructions %llu\n", (unsigned long long)instructions);
    qemu_plugin_outs(line);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info,
                                                               int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
