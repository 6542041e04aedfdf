/*
 * The running kernel's mprotect() on a layout of folios: nanoseconds per PTE.
 *
 *	kernel_mprotect T1|T2|T3 MIB ROUNDS
 *
 * T1: 2M folios, then mapped by PTEs: a flag that is set on one page of each and
 * taken back splits the mapping and leaves the folio. T2: 64K folios; each piece
 * of 64K is a VMA of its own while it is touched, so that nothing larger fits.
 * T3: 4K folios. Prints one JSON object; "error" instead of figures when the
 * layout cannot be had. kernel.py compiles and runs this file.
 *
 * T2 may need hugepages-64kB/enabled set to "madvise" while the memory is touched.
 * A child puts it back: it waits for this process to close a pipe, which every
 * death does, and no signal of the terminal reaches it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THP "/sys/kernel/mm/transparent_hugepage/"
#define HUGE (2UL << 20)
#define PIECE (64UL << 10)
#define PAGE 4096UL
#define MAX_ROUNDS 1000

#define KPF_COMPOUND_HEAD (1ULL << 15)
#define KPF_COMPOUND_TAIL (1ULL << 16)
#define PM_PRESENT (1ULL << 63)
#define PM_FRAME ((1ULL << 55) - 1)

static const char *layout;
static int guard = -1;		/* write end of the guard's pipe */
static pid_t guard_pid;

static void restore_setting(void)
{
	if (guard < 0)
		return;
	close(guard);
	guard = -1;
	waitpid(guard_pid, NULL, 0);
}

static void give_up(const char *fmt, ...)
{
	va_list ap;

	restore_setting();
	printf("{\"layout\": \"%s\", \"error\": \"", layout);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\"}\n");
	exit(0);
}

/* the chosen word of a setting, "always [madvise] never" */
static void setting(const char *path, char out[16])
{
	char text[128] = "", *open, *close;
	FILE *f = fopen(path, "r");

	strcpy(out, "never");
	if (!f)
		return;
	if (fgets(text, sizeof(text), f) && (open = strchr(text, '[')) && (close = strchr(open, ']')))
		snprintf(out, 16, "%.*s", (int)(close - open - 1), open + 1);
	fclose(f);
}

static int put_setting(const char *path, const char *word)
{
	int fd = open(path, O_WRONLY);
	ssize_t n = fd < 0 ? -1 : write(fd, word, strlen(word));

	if (fd >= 0)
		close(fd);
	return n < 0 ? -1 : 0;
}

/* may folios of this size appear in memory that asks for them? */
static int size_is_on(const char *size, char now[16])
{
	char path[128], top[16];

	snprintf(path, sizeof(path), THP "hugepages-%s/enabled", size);
	setting(THP "enabled", top);
	if (access(path, R_OK)) {
		strcpy(now, "inherit");	/* kernels before 6.8 have one size and one setting */
		if (strcmp(size, "2048kB"))
			return 0;
	} else {
		setting(path, now);
	}
	return strcmp(strcmp(now, "inherit") ? now : top, "never") != 0;
}

/* switch 64K folios on for memory that asks for them, with a guard that puts it back */
static void want_64k(void)
{
	static const char path[] = THP "hugepages-64kB/enabled";
	char now[16];
	int ends[2];

	if (access(path, R_OK))
		give_up("this kernel has no 64K folios");
	if (size_is_on("64kB", now))
		return;
	if (access(path, W_OK))
		give_up("64K folios are off and %s may not be written", path);
	if (pipe(ends) || (guard_pid = fork()) < 0)
		give_up("no guard process: %s", strerror(errno));
	if (!guard_pid) {
		sigset_t every;
		char byte;

		sigfillset(&every);
		sigprocmask(SIG_BLOCK, &every, NULL);
		setsid();
		close(ends[1]);
		while (read(ends[0], &byte, 1) > 0)
			;
		_exit(put_setting(path, now) ? 1 : 0);
	}
	close(ends[0]);
	guard = ends[1];
	if (put_setting(path, "madvise"))
		give_up("64K folios cannot be switched on: %s", strerror(errno));
}

static void advise(char *p, size_t len, int advice, const char *what)
{
	if (madvise(p, len, advice))
		give_up("madvise %s: %s", what, strerror(errno));
}

static void touch(char *p, size_t len)
{
	for (size_t i = 0; i < len; i += PAGE)
		p[i] = 1;
}

static char *aligned_memory(size_t len)
{
	char *p = mmap(NULL, len + 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *first = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));

	if (p == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	if (first > p)
		munmap(p, first - p);
	/* one page more behind the range: touched first, it gives all parts one anon_vma, so that they merge again */
	munmap(first + len + PAGE, p + len + 2 * HUGE - (first + len + PAGE));
	first[len] = 1;
	return first;
}

static char *make(size_t len)
{
	char *p = aligned_memory(len), now[16];

	if (!strcmp(layout, "T3")) {
		advise(p, len, MADV_NOHUGEPAGE, "NOHUGEPAGE");
		touch(p, len);
	} else if (!strcmp(layout, "T1")) {
		if (!size_is_on("2048kB", now))
			give_up("2M folios are off");
		advise(p, len, MADV_HUGEPAGE, "HUGEPAGE");
		touch(p, len);
		for (size_t i = 0; i < len; i += HUGE) {
			advise(p + i + PAGE, PAGE, MADV_DONTFORK, "DONTFORK");
			advise(p + i + PAGE, PAGE, MADV_DOFORK, "DOFORK");
		}
	} else {
		want_64k();
		advise(p, len, MADV_HUGEPAGE, "HUGEPAGE");
		for (size_t i = 0; i < len; i += 2 * PIECE)
			advise(p + i, PIECE, MADV_DONTFORK, "DONTFORK");
		touch(p, len);
		restore_setting();
		advise(p, len, MADV_DOFORK, "DOFORK");
	}
	return p;
}

/* the range is one VMA, and no PMD maps it */
static void check_vma(const char *p, size_t len)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long start, end, kib = 0;
	char line[256];
	int inside = 0;

	if (!f)
		give_up("/proc/self/smaps cannot be read");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (uintptr_t)p && end >= (uintptr_t)p + len;
		else if (inside && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			break;
	}
	fclose(f);
	if (!inside)
		give_up("the range did not become one VMA again");
	if (kib)
		give_up("%lu KiB are still mapped by PMDs", kib);
}

/* every folio has this order, by compound head and tail: 1; unknown: 0 */
static int check_folios(const char *p, size_t len, size_t nr)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY), flags = open("/proc/kpageflags", O_RDONLY);
	uint64_t *entry = malloc(nr * 8), *flag = malloc(nr * 8);
	size_t i, k, bad = 0;

	if (pagemap < 0 || flags < 0 || !entry || !flag)
		return 0;
	for (i = 0; i < len / PAGE; i += nr) {
		if (pread(pagemap, entry, nr * 8, ((uintptr_t)p / PAGE + i) * 8) != (ssize_t)(nr * 8))
			return 0;
		uint64_t frame = entry[0] & PM_FRAME;

		if (!(entry[0] & PM_PRESENT) || !frame)
			return 0;
		if (pread(flags, flag, nr * 8, frame * 8) != (ssize_t)(nr * 8))
			return 0;
		for (k = 0; k < nr; k++) {
			uint64_t want = nr == 1 ? 0 : k ? KPF_COMPOUND_TAIL : KPF_COMPOUND_HEAD;

			bad += (entry[k] & PM_FRAME) != frame + k || (flag[k] & (KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL)) != want;
		}
	}
	/* a shortage of large folios may leave a few small ones */
	if (bad > len / PAGE / 100)
		give_up("%zu of %zu pages are not in folios of the layout", bad, len / PAGE);
	return 1;
}

static double call(char *p, size_t len, int prot)
{
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	if (mprotect(p, len, prot))
		give_up("mprotect: %s", strerror(errno));
	clock_gettime(CLOCK_MONOTONIC, &b);
	return ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / (len / PAGE);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	static const int prots[4] = { PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ | PROT_WRITE };
	static const char *const names[4] = { "ro", "rw", "none", "back" };
	static double ns[4][MAX_ROUNDS];

	layout = argc == 4 ? argv[1] : "";
	size_t len = argc == 4 ? strtoul(argv[2], NULL, 10) << 20 : 0;
	long rounds = argc == 4 ? atol(argv[3]) : 0, r;
	int i, known = !strcmp(layout, "T1") || !strcmp(layout, "T2") || !strcmp(layout, "T3");

	if (!known || !len || len % HUGE || rounds < 1 || rounds > MAX_ROUNDS || sysconf(_SC_PAGESIZE) != (long)PAGE) {
		fprintf(stderr, "usage: kernel_mprotect T1|T2|T3 MIB ROUNDS, on a kernel with 4K pages\n");
		return 2;
	}
	char *p = make(len);

	check_vma(p, len);
	int verified = check_folios(p, len, layout[1] == '1' ? 512 : layout[1] == '2' ? 16 : 1);

	for (r = -1; r < rounds; r++)	/* the first warms up */
		for (i = 0; i < 4; i++)
			ns[i][r < 0 ? 0 : r] = call(p, len, prots[i]);
	printf("{\"layout\": \"%s\", \"pages\": %lu, \"rounds\": %ld, \"verified\": %s", layout, len / PAGE, rounds,
	       verified ? "true" : "false");
	for (i = 0; i < 4; i++) {
		qsort(ns[i], rounds, sizeof(double), by_size);
		printf(", \"%s\": %.3f, \"%s_min\": %.3f", names[i], ns[i][rounds / 2], names[i], ns[i][0]);
	}
	printf("}\n");
	return 0;
}
