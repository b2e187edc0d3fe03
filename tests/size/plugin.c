/*
 * A plugin for qemu's user mode: counts the instructions that a program and its children execute, in
 * the first 8 bytes of a file that is mapped by them all.
 *
 *     cc -O2 -shared -fPIC -o plugin.so plugin.c; qemu-mipsel -plugin plugin.so,into=FILE PROGRAM
 *
 * qemu counts when it enters a block of instructions. Without a lock, so it is exact while one of the
 * processes runs at a time. The declarations are those of qemu-plugin.h (qemu 7.2, version 1 of the
 * interface), which Debian does not ship.
 */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct tb;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t plugin, void (*)(uint64_t, struct tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct tb *, int op_add, void *number, uint64_t by);
size_t qemu_plugin_tb_n_insns(const struct tb *);

int qemu_plugin_version = 1;

static uint64_t *count;

static void translated(uint64_t plugin, struct tb *tb)
{
	(void)plugin;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, count, qemu_plugin_tb_n_insns(tb));
}

int qemu_plugin_install(uint64_t plugin, const void *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "into=", 5) != 0)
		return -1;
	int fd = open(argv[0] + 5, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, sizeof *count) < 0)
		return -1;
	count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (count == MAP_FAILED)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
	return 0;
}
