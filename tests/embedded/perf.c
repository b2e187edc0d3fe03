/*
 * Counts what happens in processes while a command runs:
 *
 *     perf COMMAND EVENT... -- PID...
 *
 * An event is TYPE:CONFIG:WHERE: the first two as for perf_event_open(2), and where it is to be
 * counted, u for user space or k for the kernel. Prints a line for each, the sum of all processes.
 */
#include <err.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 8

static int start(const char *event, const char *pid)
{
	unsigned type;
	unsigned long long config;
	char where;
	if (sscanf(event, "%u:%llu:%c", &type, &config, &where) != 3)
		errx(100, "no event: %s", event);
	struct perf_event_attr attr = {
		.type = type,
		.size = sizeof attr,
		.config = config,
		.exclude_user = where != 'u',
		.exclude_kernel = where != 'k',
		.exclude_hv = 1,
	};
	int fd = syscall(SYS_perf_event_open, &attr, atoi(pid), -1, -1, 0);
	if (fd < 0)
		err(111, "unable to count %s in process %s", event, pid);
	return fd;
}

int main(int argc, char **argv)
{
	int events = 0;
	while (2 + events < argc && strcmp(argv[2 + events], "--") != 0)
		events++;
	int processes = argc - 2 - events - 1;
	if (events < 1 || events > MOST || processes < 1 || processes > MOST)
		errx(100, "usage: perf COMMAND EVENT... -- PID...");
	char **event = argv + 2, **pid = event + events + 1;

	int fds[MOST][MOST];
	for (int e = 0; e < events; e++)
		for (int p = 0; p < processes; p++)
			fds[e][p] = start(event[e], pid[p]);
	if (system(argv[1]) != 0)
		errx(111, "failed: %s", argv[1]);
	for (int e = 0; e < events; e++) {
		uint64_t sum = 0, number;
		for (int p = 0; p < processes; p++) {
			if (read(fds[e][p], &number, sizeof number) != sizeof number)
				err(111, "unable to read the count of %s in process %s", event[e], pid[p]);
			sum += number;
		}
		printf("%llu\n", (unsigned long long)sum);
	}
	return 0;
}
