"""The laws of the table a call leaves, of its counters and of its gather, in plain Python.

Each function takes a `Run` and returns how its law is broken, or None. The
compiled checker (``checker/tablelaws.pxd``) judges the same; `rows` has the table.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ... import bits as b
from ...events import KINDS
from ...notation.strip import draw
from ...reference import pte as p
from .run import AD_BITS, CLEAN, SOILED, Breach, Run, show


def _differ(run: Run, i: int, want: int, got: int, where: str = "") -> Breach:
    """Two words that differ, with their bits if the notation does not tell them apart."""
    one, other = show(run, want), show(run, got)
    if one == other:
        one, other = f"word {want:#018x}", f"word {got:#018x}"
    return Breach(i, one + where, other)


def _left_alone(run: Run, i: int) -> bool:
    """Only hardware changed entry i."""
    old, new = run.before[i], run.after[i]
    lost = old & ~new
    if old == new or not p.pte_present(old):
        return old == new
    if new & ~old & ~b.PTE_AF or lost & ~b.PTE_RDONLY or (lost and not p.pte_write(old)):
        return False
    return not run.ad(new) & ~run.may(i)


def _changed(run: Run) -> Iterator[int]:
    """Entries of the range that were present, are to be changed, and are present still."""
    yield from (i for i in run.called if run.handled(i) and p.pte_present(run.after[i]))


def contract(run: Run) -> Breach | None:
    """A step returns a number from 1 to max_nr, commits that many entries, each once, and raises nothing."""
    if run.error is None:
        return None
    return Breach(
        run.stopped, "a step that returns the number of entries it committed", f"{type(run.error).__name__}: {run.error}"
    )


def partition(run: Run) -> Breach | None:
    """The units of the call follow each other to the end of the range (rule 1)."""
    if run.stopped == run.world.end:
        return None
    return Breach(-1, f"the walk ends at entry {run.world.end}", f"it ends at {run.stopped}")


def committed(run: Run) -> Breach | None:
    """What was started is committed before the lock is dropped (rule 7)."""
    return Breach(-1, "every started entry is committed", f"{run.started} entries are still cleared") if run.started else None


def outside(run: Run) -> Breach | None:
    """Nothing outside the range changes, but A/D and CONT of blocks that its edges cut (spec 7.10)."""
    low, high = run.rounded
    for i, (old, new) in enumerate(zip(run.before, run.after, strict=True)):
        if i in run.called or _left_alone(run, i):
            continue
        if not low <= i < high or not p.pte_present(old) or (old ^ new) & ~AD_BITS:
            return _differ(run, i, old, new, ", outside the range")
    return None


def kind_kept(run: Run) -> Breach | None:
    """What was empty stays empty, what was present stays present (spec 7.10)."""
    for i in run.called:
        old, new = run.before[i], run.after[i]
        if p.pte_present(old) and not run.skipped(i) and not p.pte_present(new):
            return Breach(i, "a present entry", show(run, new))
        if p.pte_none(old) and new != run.not_present_after(old):
            return _differ(run, i, run.not_present_after(old), new)
        if p.pte_softleaf(old) and p.pte_present(new):
            return _differ(run, i, run.not_present_after(old), new)
    return None


def softleaf_kept(run: Run) -> Breach | None:
    """Entries that are not present become what spec 6.7 says of them, and nothing else."""
    for i in run.called:
        old, new = run.before[i], run.after[i]
        if p.pte_softleaf(old) and not p.pte_present(new) and new != run.not_present_after(old):
            return _differ(run, i, run.not_present_after(old), new)
    return None


def preserved(run: Run) -> Breach | None:
    """Each entry keeps its frame and gets its new protection, bit for bit but W, A/D and CONT (rule 5)."""
    for i in run.called:
        if run.skipped(i) and p.pte_present(run.before[i]) and not _left_alone(run, i):
            return _differ(run, i, run.before[i], run.after[i], ", which prot_numa skips")
    for i in _changed(run):
        want = run.present_after(i)
        if (want ^ run.after[i]) & ~(AD_BITS | b.PTE_WRITE):
            return _differ(run, i, want, run.after[i])
    return None


def _upgrades(run: Run) -> Iterator[int]:
    """Entries whose WRITE TRY_CHANGE_WRITABLE decides."""
    if run.cp_flags & b.MM_CP_TRY_CHANGE_WRITABLE:
        yield from (i for i in _changed(run) if not p.pte_write(run.present_after(i)))


def _denied(run: Run, i: int) -> str:
    """Why the VMA or the word of entry i allows no WRITE by upgrade; empty: they allow it (spec 6.6)."""
    new = run.present_after(i)
    if not run.vm_flags & b.VM_WRITE:
        return "the VMA lacks VM_WRITE"
    if p.pte_protnone(new):
        return "the entry becomes PROT_NONE"
    return "" if run.may_be_writable(i) else "its userfaultfd marker keeps it write-protected"


def exclusive(run: Run) -> Breach | None:
    """In a private mapping WRITE is given to an entry only if its own page is PageAnonExclusive (rule 4)."""
    if run.vm_flags & b.VM_SHARED:
        return None
    for i in _upgrades(run):
        if p.pte_write(run.after[i]) and not (run.may_be_writable(i) and run.exclusive(i)):
            page = run.page(i)
            of = "is not PageAnonExclusive" if page is not None and page & b.PG_ANON else "is no anonymous page"
            why = _denied(run, i) or f"page {run.pfn(run.before[i]):#x} {of}"
            return Breach(i, f"no WRITE: {why}", show(run, run.after[i]))
    return None


def shared_write(run: Run) -> Breach | None:
    """With writenotify WRITE is given only with a dirty entry in the unit, and only to an entry dirty afterwards (spec 7.10)."""
    if not run.vm_flags & b.VM_SHARED:
        return None
    for i in _upgrades(run):
        if not p.pte_write(run.after[i]):
            continue
        if not (run.may_be_writable(i) and run.spread(i) & SOILED):
            return Breach(i, f"no WRITE: {_denied(run, i) or 'no entry of its unit is dirty'}", show(run, run.after[i]))
        if not p.pte_dirty(run.after[i]):
            how = "dirty, or no WRITE: a first write to a clean page must reach page_mkwrite()"
            return Breach(i, how, f"{show(run, run.after[i])}, clean")
    return None


def missed(run: Run) -> list[int]:
    """Entries that could have become writable and did not: a write fault each is left behind."""
    found = []
    for i in _upgrades(run):
        ready = run.must(i) & SOILED if run.vm_flags & b.VM_SHARED else run.exclusive(i)
        if ready and run.may_be_writable(i) and not p.pte_write(run.after[i]):
            found.append(i)
    return found


def upgraded(run: Run) -> Breach | None:
    """Each entry that may become writable does: of an exclusive page, and with writenotify one that is dirty (spec 6.6)."""
    for i in missed(run):
        why = "the entry is dirty" if run.vm_flags & b.VM_SHARED else f"page {run.pfn(run.before[i]):#x} is PageAnonExclusive"
        return Breach(i, f"WRITE: {why}", show(run, run.after[i]))
    return None


def write_kept(run: Run) -> Breach | None:
    """Without TRY_CHANGE_WRITABLE, or with WRITE in the new protection, WRITE is that of the new protection."""
    asked = set(_upgrades(run))
    for i in _changed(run):
        want = p.pte_write(run.present_after(i))
        if i not in asked and p.pte_write(run.after[i]) != want:
            return Breach(i, "WRITE" if want else "no WRITE", show(run, run.after[i]))
    return None


def _touched(run: Run) -> Iterator[int]:
    """Entries that are changed, or whose block the edge of the range cuts."""
    low, high = run.rounded
    for i in range(low, min(high, len(run.before))):
        if (run.handled(i) or i not in run.called) and p.pte_present(run.before[i]) and p.pte_present(run.after[i]):
            yield i


def ad_kept(run: Run) -> Breach | None:
    """No entry loses AF or its dirtiness (rule 6, I-13)."""
    for i in _touched(run):
        lost = run.must(i) & ~run.ad(run.after[i])
        if lost:
            return Breach(i, "dirty, as before" if lost & SOILED else "young, as before", show(run, run.after[i]))
    return None


def ad_spread(run: Run) -> Breach | None:
    """AF and dirtiness come from the entry, from what is started while it is, or from its contpte block (spec 7.10)."""
    for i in _touched(run):
        new = run.after[i]
        # what pte_mkwrite() made dirty, a block that folds passes on to its entries beside the range
        may = run.spread(i) | SOILED * (run.machine.mkwrite_always and p.pte_write(new))
        gained = run.ad(new) & ~may
        if gained != CLEAN:
            return Breach(i, "clean" if gained & SOILED else "old", show(run, new))
    return None


def dirty_state(run: Run) -> Breach | None:
    """WRITE, RDONLY and DIRTY are one of the states of spec 2.1 (I-2, I-3)."""
    for i in _touched(run):
        new = run.after[i]
        if p.pte_write(new) and p.pte_rdonly(new) and p.pte_sw_dirty(new):
            return Breach(i, "RDONLY clear, for the entry is writable and dirty", show(run, new))
        if not p.pte_write(new) and not p.pte_rdonly(new):
            return Breach(i, "RDONLY set, for the entry is not writable", f"word {new:#018x}")
    return None


def contpte(run: Run) -> Breach | None:
    """A folded block is whole: frames aligned and consecutive in one folio, all flags but A/D equal (I-4)."""
    n, shift, pages = run.machine.cont_ptes, run.machine.page_shift, run.world.pages
    for first in range(0, len(run.after), n):
        block = run.after[first : first + n]
        if not any(map(p.pte_valid_cont, block)):
            continue
        head = p.pte_pfn(shift, block[0])
        at = head - run.world.pfn_base
        large = 0 <= at < len(pages) and 1 << (pages[at] & b.PG_ORDER_MASK) >= n
        whole = all(p.pte_valid_cont(w) and p.pte_pfn(shift, w) == head + k for k, w in enumerate(block))
        like = all(not (p.pte_pgprot(shift, w) ^ p.pte_pgprot(shift, block[0])) & ~(AD_BITS ^ b.PTE_CONT) for w in block)
        if not (run.machine.contpte and large and head % n == 0 and whole and like and not p.pte_special(block[0])):
            text = draw(np.array(block, np.uint64), run.machine, fields="pfn")
            return Breach(first, "a block that is unfolded, or one aligned and uniform piece of a folio", text)
    return None


def cont_valid(run: Run) -> Breach | None:
    """CONT is set on VALID entries only, since 7.3 (I-5)."""
    for i, word in enumerate(run.after):
        if p.pte_cont(word) and p.pte_present(word) and not p.pte_valid(word) and not run.machine.paint_invalid:
            return Breach(i, "no CONT on an entry that is not VALID", show(run, word))
    return None


def _accessed(run: Run, i: int) -> bool:
    """A word without AF is in no TLB; of a folded block, any entry's AF stands for all."""
    if not p.pte_cont(run.before[i]):
        return run.accessed(i)
    first = i // run.machine.cont_ptes * run.machine.cont_ptes
    return any(map(run.accessed, range(first, first + run.machine.cont_ptes)))


def flush(run: Run) -> Breach | None:
    """The gather covers every entry that was VALID and accessed and whose rights changed; before 6.19 every entry (rule 8)."""
    low, high = run.gathered or (0, 0)
    for i in _changed(run):
        old, new = run.before[i], run.after[i]
        changed = (old ^ new) & b.PTE_CHG_MASK
        # hardware and gathering only ever clear RDONLY of a writable entry
        harmless = not changed or (changed == b.PTE_RDONLY and not p.pte_rdonly(new))
        if run.machine.needs_flush and (not p.pte_valid(old) or harmless or not _accessed(run, i)):
            continue
        if not low <= i << run.machine.page_shift < high:
            size = run.machine.page_shift
            got = f"entries [{low >> size}, {high >> size}) are flushed" if run.gathered else "nothing is flushed"
            return Breach(i, f"a flush of entry {i}: {show(run, old)} became {show(run, new)}", got)
    return None


def returned(run: Run) -> Breach | None:
    """The call returns the entries it dealt with, and those that are not present and changed (rule 9)."""
    absent = [run.before[i] for i in run.called if not p.pte_present(run.before[i])]
    want = sum(map(run.handled, run.called)) + sum(run.not_present_after(word) != word for word in absent)
    return None if run.pages == want else Breach(-1, f"return value {want}", str(run.pages))


def _recorded(run: Run) -> int:
    return sum(value for kind, _, value in run.events if KINDS[kind] == "BATCH")


def unrecorded(run: Run) -> int:
    """Entries that no batch was recorded of, if some were: nothing breaks, but Result.batches is not whole."""
    batches = _recorded(run)
    return sum(map(run.handled, run.called)) - batches if batches else 0


def counts(run: Run) -> Breach | None:
    """What is counted adds up: accesses, units, conversions, gathers, batches."""
    c, m, n = run.counters, run.machine, run.machine.cont_ptes
    absent = [run.before[i] for i in run.called if not p.pte_present(run.before[i])]
    handled = sum(map(run.handled, run.called))
    stored = [run.not_present_after(word) for word in absent if run.not_present_after(word) != word]
    moved = (c["folds"] + c["unfolds"]) * n
    batches = _recorded(run)
    low, high = run.gathered or (run.world.start << m.page_shift,) * 2
    sums = {
        "pte_xchg = entries + conversions * CONT_PTES": c["pte_xchg"] == handled + moved,
        "pte_writes = entries + stored + conversions * CONT_PTES": c["pte_writes"] == handled + len(stored) + moved,
        "pte_cmpxchg = 0": c["pte_cmpxchg"] == 0,
        "set_ptes = commits + stored": c["set_ptes"] == c["prot_commit"] + sum(word != 0 for word in stored),
        "folds <= fold_tries": c["folds"] <= c["fold_tries"],
        "unfolds = unfold_calls": c["unfolds"] == c["unfold_calls"],
        "prot_start <= entries": c["prot_start"] <= handled,
        "prot_commit <= entries": c["prot_commit"] <= handled,
        "gather_calls <= prot_commit": c["gather_calls"] <= c["prot_commit"],
        "n_subs = prot_commit, or 0": c["n_subs"] in (0, c["prot_commit"]),
        "batches add up to the entries at most": batches <= handled,
        "the flush stays in the range": run.world.start << m.page_shift <= low <= high <= run.world.end << m.page_shift,
    }
    for claim, holds in sums.items():
        if not holds:
            return Breach(-1, claim, ", ".join(f"{name} {c[name]}" for name in c if name in claim) or f"{batches} in batches")
    return None


def convert_flush(run: Run) -> Breach | None:
    """Each contpte conversion flushes its block once, unless the CPU needs no break-before-make (spec 3.4)."""
    c = run.counters
    want = 0 if run.machine.elides_bbm else c["folds"] + c["unfolds"]
    if c["convert_tlbi"] == want and c["convert_tlbi_pages"] == want * run.machine.cont_ptes:
        return None
    return Breach(-1, f"{want} flushes of {run.machine.cont_ptes} pages", f"{c['convert_tlbi']}, {c['convert_tlbi_pages']} pages")


def replay(run: Run) -> Breach | None:
    """Replaying what repeats leaves the table, the return value, the counters and the gather that doing it step by step does."""
    again = run.replayed
    if again is None:
        return None
    for i, (want, got) in enumerate(zip(run.after, again.after, strict=True)):
        if want != got:
            return _differ(run, i, want, got, ", when it is done step by step")
    if run.pages != again.pages:
        return Breach(-1, f"return value {run.pages}, as when it is done step by step", str(again.pages))
    if run.gathered != again.gathered:
        return Breach(-1, f"a gather of {run.gathered}, as when it is done step by step", str(again.gathered))
    if again.differ:
        return Breach(-1, f"the {again.differ} that are made step by step", f"other {again.differ}")
    for name, n in again.counters.items():
        # the final flush is not counted by every run
        if not name.startswith("flush_") and run.counters[name] != n:
            return Breach(-1, f"{name} {run.counters[name]}, as when it is done step by step", str(n))
    return None


def hardware(run: Run) -> Breach | None:
    """What hardware sets while the call runs is in the table afterwards (rule 6, spec 8.9)."""
    for i in range(len(run.after)):
        lost = run.set_by_hardware(i) & ~run.ad(run.after[i])
        if lost:
            return Breach(
                i, "dirty, for it was written to" if lost & SOILED else "young, for it was accessed", show(run, run.after[i])
            )
    return None
