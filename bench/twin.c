/*
 * The core's algorithm in plain C, for the benchmark only: what would it cost
 * without Cython, without strategies, without Python above it?
 *
 * It knows mprotect() of 7.3 on private anonymous folios that are mapped whole
 * and alike, read-only and back: the first unit's counts come from formulas
 * (spec 7), every unit is compared with the first and rewritten in one pass.
 * Any entry that differs ends the call with -1. Built with the flags of the
 * core's replay loops, not part of the wheel.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX__)
#define W 4
#else
#define W 2
#endif
typedef uint64_t vec __attribute__((vector_size(8 * W), aligned(8), may_alias));
typedef uint64_t any_vec __attribute__((vector_size(8 * W), aligned(1), may_alias));

#define VALID 1ULL
#define RDONLY (1ULL << 7)
#define AF (1ULL << 10)
#define WRITE (1ULL << 51)
#define CONT (1ULL << 52)
#define UXN (1ULL << 54)
#define DIRTY (1ULL << 55)
#define SWBITS ((1ULL << 63) | (15ULL << 55))
#define CHG 0x706c0000000008ddULL
#define ADDR 0x0003fffffffff000ULL
#define PAGE 4096ULL
enum { PTRS = 512, NCONT = 16, ORDER = 0x0f, EXCLUSIVE = 0x80 };

enum { READS, WRITES, XCHG, PTEP_GET, GATHERS, PAE, SCANS, FOLD_TRIES, STARTS, COMMITS, SYNC, SUBS, GATHER_CALLS, PAGES, LOCKS, NCOUNT };

struct twin {
	uint64_t **pmd;          /* leaf tables, in address order */
	size_t leaves;
	const uint8_t *pages;
	uint64_t pfn_base, nr_pages;
	uint64_t newprot;
	int try_writable;
	uint64_t c[NCOUNT];
	uint64_t gather_start, gather_end;
};

struct unit {
	size_t nr;
	uint64_t in, flip;
	uint8_t byte;
	int ask;                 /* PageAnonExclusive of every page counts */
	int gather;
	uint64_t c[NCOUNT];
	size_t lo, hi, credit;   /* pages known to be `byte`, and how many more to look at */
};

static inline vec all(uint64_t x) { return (vec){0} + x; }

static inline vec ramp(uint64_t first)
{
#if W == 4
	return all(first) + (vec){0, PAGE, 2 * PAGE, 3 * PAGE};
#else
	return all(first) + (vec){0, PAGE};
#endif
}

static inline int zero(vec a)
{
#if W == 4
	typedef long long di __attribute__((vector_size(32)));
	return __builtin_ia32_ptestz256((di)a, (di)a);
#else
	return (a[0] | a[1]) == 0;
#endif
}

static inline int same16(const uint8_t *b, uint64_t want)
{
	uint64_t x, y;
	memcpy(&x, b, 8);
	memcpy(&y, b + 8, 8);
	return ((x ^ want) | (y ^ want)) == 0;
}

static inline int scattered16(uint64_t *p, const struct twin *t, const struct unit *u, uint64_t outside)
{
	const uint8_t *page0 = (const uint8_t *)((uintptr_t)t->pages - t->pfn_base);
	const uint64_t first = t->pfn_base * PAGE;
	vec any = all(0);
	for (int k = 0; k < 16; k += W)
		any |= (*(vec *)(p + k) ^ u->in) - first;
	if (!zero(any & outside))
		return 0;
#pragma GCC unroll 16
	for (int k = 0; k < 16; k++) {
		uint32_t half;                      /* addresses below 1 TiB */
		memcpy(&half, (const uint8_t *)(p + k) + 1, 4);
		if (page0[half >> 4] != u->byte)
			return 0;
	}
	for (int k = 0; k < 16; k += W)
		*(vec *)(p + k) ^= all(u->flip);
	return 1;
}

/* groups of 16 words in order from `want` on; returns how many words were rewritten */
static __attribute__((noinline)) size_t rewrite(uint64_t *p, size_t nr, uint64_t want, uint64_t flip)
{
	uint64_t *const begin = p, *const end = p + nr / 16 * 16;
	vec w = ramp(want), store = w ^ flip;
	for (; p != end; p += 16) {
		vec differ = all(0);
		for (int k = 0; k < 16; k += W, w += W * PAGE)
			differ |= *(vec *)(p + k) ^ w;
		if (!zero(differ))
			break;
		for (int k = 0; k < 16; k += W, store += W * PAGE)
			*(vec *)(p + k) = store;
	}
	return p - begin;
}

/* groups of 16 words that are `first` plus pages up to `span`; counts block ends */
static __attribute__((noinline)) size_t within(uint64_t *p, size_t nr, uint64_t first, uint64_t span, uint64_t flip, uint64_t *ends)
{
	uint64_t *const begin = p, *const end = p + nr / 16 * 16;
	const int whole = !(span & (span + PAGE));
	const uint64_t bad = whole ? ~span : 1ULL << 63 | (PAGE - 1);
	uint64_t tries = 0;
	for (; p != end; p += 16) {
		vec any = all(0);
		for (int k = 0; k < 16; k += W) {
			vec x = *(vec *)(p + k) - first;
			if (!whole)
				x |= span - x;
			any |= x;
		}
		if (!zero(any & bad))
			break;
		tries += (p[15] / PAGE & 15) == 15;
		for (int k = 0; k < 16; k += W)
			*(vec *)(p + k) ^= flip;
	}
	*ends += tries;
	return p - begin;
}

static inline int same64(const uint8_t *b, uint64_t want)
{
	vec differ = all(0);
	for (int k = 0; k < 64; k += 8 * W)
		differ |= *(const any_vec *)(b + k) ^ want;
	return zero(differ);
}

/* make the known pages reach this one, if all between are alike */
static int reach(const struct twin *t, struct unit *u, uint64_t at)
{
	const uint64_t want = 0x0101010101010101ULL * u->byte;
	size_t before = u->hi - u->lo;
	if (at >= t->nr_pages)
		return 0;
	if (!before)
		u->lo = u->hi = at;
	while (u->hi <= at && u->credit > u->hi - u->lo - before) {
		int wide = u->hi + 64 <= t->nr_pages && same64(t->pages + u->hi, want);
		if (!wide && t->pages[u->hi] != u->byte)
			break;
		u->hi += wide ? 64 : 1;
	}
	while (u->lo > at && u->credit > u->hi - u->lo - before) {
		int wide = u->lo >= 64 && same64(t->pages + u->lo - 64, want);
		if (!wide && t->pages[u->lo - 1] != u->byte)
			break;
		u->lo -= wide ? 64 : 1;
	}
	before = u->hi - u->lo - before;
	u->credit -= u->credit < before ? u->credit : before;
	return u->lo <= at && at < u->hi;
}

static uint64_t modify(uint64_t p, uint64_t prot)
{
	if ((p & (WRITE | RDONLY)) == WRITE)
		p |= DIRTY;
	p = (p & ~CHG) | (prot & CHG);
	if (p & DIRTY && p & WRITE)
		p &= ~RDONLY;
	return p;
}

/* counts of one unit: spec 7.7 for a young and dirty one */
static int learn(const struct twin *t, const uint64_t *p, struct unit *u)
{
	uint64_t at = (p[0] & ADDR) / PAGE - t->pfn_base, new;
	size_t blocks;
	int cont = (p[0] & (VALID | CONT)) == (VALID | CONT);
	if (at >= t->nr_pages)
		return 0;
	memset(u, 0, sizeof(*u));
	u->byte = t->pages[at];
	u->nr = 1ULL << (u->byte & ORDER);
	u->in = p[0] & ~ADDR;
	if (!(u->in & AF) || !(u->in & (DIRTY | WRITE)) || (u->nr > 1 && u->nr % NCONT))
		return 0;
	blocks = cont ? u->nr / NCONT : u->nr;
	new = modify(u->in, t->newprot);
	u->ask = t->try_writable && !(new & WRITE);
	if (u->ask && u->byte & EXCLUSIVE) {
		new |= WRITE;
		if (new & DIRTY)
			new &= ~RDONLY;
	}
	new &= ~CONT;
	if (u->nr > 1 && new & VALID)
		new |= CONT;
	u->flip = new ^ u->in;
	u->gather = (u->in & VALID) && ((new ^ u->in) & ~SWBITS & ~CONT);
	u->c[READS] = u->nr == 1 ? 3 : (cont ? 3 * blocks : blocks);
	u->c[WRITES] = u->c[XCHG] = u->c[PAGES] = u->nr;
	u->c[PTEP_GET] = blocks;
	u->c[GATHERS] = cont ? blocks : 0;
	u->c[PAE] = u->ask ? u->nr : 0;
	u->c[SCANS] = u->nr > 1;
	u->c[STARTS] = u->c[COMMITS] = u->c[SUBS] = 1;
	u->c[SYNC] = u->nr > 1 && new & VALID ? u->nr / NCONT : 1;
	u->c[GATHER_CALLS] = u->gather;
	return 1;
}

/* pages from `at` on that are like the unit's, at most `most`, in groups of 16 */
static size_t alike(const struct twin *t, const struct unit *u, uint64_t at, size_t most)
{
	const uint64_t want = 0x0101010101010101ULL * u->byte;
	size_t n = 0;
	while (n + 64 <= most && same64(t->pages + at + n, want))
		n += 64;
	while (n + 16 <= most && same16(t->pages + at + n, want))
		n += 16;
	return n;
}

static inline size_t folios(const struct twin *t, const struct unit *u, uint64_t *p, size_t nr)
{
	const uint64_t low = u->nr * PAGE - PAGE;
	size_t done = 0, got;
	for (; done + u->nr <= nr; done += got) {
		uint64_t addr = p[done] & ADDR, at = addr / PAGE - t->pfn_base, most = t->nr_pages - at;
		if (addr & low || at >= t->nr_pages)
			break;
		most = alike(t, u, at, most < nr - done ? most : nr - done) & ~(u->nr - 1);
		got = rewrite(p + done, most, u->in + addr, u->flip);
		if (!got || got % u->nr)
			break;
	}
	return done;
}

static inline size_t small_pages(struct twin *t, struct unit *u, uint64_t *p, size_t nr)
{
	const uint64_t fold = (u->in ^ u->flip) & VALID, base = t->pfn_base;
	uint64_t outside, whole = 1, tries = 0;
	uint64_t addr = p[0] & ADDR, at = addr / PAGE - base, most = at < t->nr_pages ? t->nr_pages - at : 0;
	size_t i = 0, got;
	if (nr >= 16 && p[15] - p[0] == 15 * PAGE) {
		i = rewrite(p, alike(t, u, at, most < nr ? most : nr), u->in + addr, u->flip);
		if (!(addr / PAGE % 16))
			tries = i / 16;
	}
	if (i == nr)
		goto out;
	while (2 * whole <= t->nr_pages)
		whole *= 2;
	outside = ~((whole - 1) * PAGE);
	u->credit += 32 * (nr - i);
	while (i + 16 <= nr) {
		got = u->hi > u->lo ? within(p + i, nr - i, u->in + (base + u->lo) * PAGE, (u->hi - u->lo - 1) * PAGE, u->flip, &tries) : 0;
		if (!got) {
			for (int k = 0; k < 16 && reach(t, u, (p[i + k] & ADDR) / PAGE - base); k++)
				;
			tries += (p[i + 15] & ADDR) / PAGE % 16 == 15;
			if (!scattered16(p + i, t, u, outside))
				break;
			got = 16;
		}
		i += got;
	}
out:
	if (fold)
		t->c[FOLD_TRIES] += tries;
	return i;
}

int twin_mprotect(struct twin *t)
{
	struct unit u;
	uint64_t units = 0;
	memset(t->c, 0, sizeof(t->c));
	if (!t->leaves || !learn(t, t->pmd[0], &u))
		return -1;
	u.credit = 2 * PTRS * t->leaves;
	for (size_t k = 0; k < t->leaves; k++) {
		size_t done;
		t->c[LOCKS]++;
		done = u.nr == 1 ? small_pages(t, &u, t->pmd[k], PTRS) : folios(t, &u, t->pmd[k], PTRS);
		if (done != PTRS)
			return -1;
		units += done / u.nr;
	}
	for (int i = 0; i < NCOUNT; i++)
		t->c[i] += units * u.c[i];
	t->gather_start = 0;
	t->gather_end = u.gather ? t->leaves * PTRS : 0;
	return 0;
}

/* the streaming limit: read, change and write every word in place */
void or_in_place(uint64_t *p, size_t nr, uint64_t bit)
{
	for (size_t i = 0; i < nr; i++)
		p[i] |= bit;
}
