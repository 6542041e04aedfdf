"""VMAs: page protection of flags, split and merge.

Restates spec 1.4, 6.4 and 6.6. Kernel counterpart: mm/vma.c.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .. import bits as b
from ..errors import LayoutError
from ..machine import Machine

_ACCESS = b.VM_READ | b.VM_WRITE | b.VM_EXEC
#: __VM_UFFD_FLAGS
VM_UFFD = b.VM_UFFD_WP | b.VM_UFFD_MISSING | b.VM_UFFD_MINOR
_SPECIAL = b.VM_IO | b.VM_DONTEXPAND | b.VM_PFNMAP | b.VM_MIXEDMAP

#: pages below a VMA that grows down which nothing is placed in, and which it does not grow into (stack_guard_gap)
STACK_GUARD_GAP = 256


class MapCountError(Exception):
    """A split would exceed the limit of VMAs."""


@dataclass(frozen=True, slots=True)
class RefVma:
    """One VMA; the attributes are those of ``ptebatch.Vma``."""

    start: int
    end: int
    flags: int
    page_prot: int
    pgoff: int
    file: int = 0
    anon_vma: int = 0
    writenotify: bool = False
    name: int = 0
    chain: tuple[int, ...] = ()

    @property
    def accessible(self) -> bool:
        """vma_is_accessible()."""
        return bool(self.flags & _ACCESS)

    @property
    def perms(self) -> str:
        """Permissions as /proc/PID/maps has them, ``rw-p``."""
        access = (("r", b.VM_READ), ("w", b.VM_WRITE), ("x", b.VM_EXEC))
        return "".join(c if self.flags & bit else "-" for c, bit in access) + ("s" if self.flags & b.VM_SHARED else "p")

    @property
    def fork_child(self) -> bool:
        """vma_is_fork_child(): its pages may be found through an anon_vma of a parent, too."""
        return bool(self.anon_vma) and len(self.chain) > 1

    @property
    def anonymous(self) -> bool:
        """vma_is_anonymous(): private and without a file."""
        return not self.file and not self.flags & b.VM_SHARED


def vm_get_page_prot(machine: Machine, flags: int) -> int:
    """Page protection of VMA flags (spec 1.4)."""
    prot = b.PROTECTION_MAP[flags & (_ACCESS | b.VM_SHARED)]
    if machine.epan and flags & _ACCESS == b.VM_EXEC:
        prot = b.PAGE_EXECONLY
    if machine.lpa2:
        prot &= ~b.PTE_SHARED
    if flags & b.VM_ARM64_BTI:
        prot |= b.PTE_GP
    if flags & b.VM_MTE:
        prot |= 1 << 2
    return prot | ((flags & b.VM_PKEY_MASK) >> b.VM_PKEY_SHIFT) << 60


def wants_writenotify(machine: Machine, vma: RefVma, flags: int, prot: int) -> bool:
    """Whether the owner of a shared mapping wants the fault of the first write (spec 6.6).

    A file system that can do writeback is not modelled.
    """
    both = b.VM_SHARED | b.VM_WRITE
    if flags & both != both:
        return False
    if vma.writenotify:
        return True
    if prot != vm_get_page_prot(machine, flags):
        return False
    return bool(flags & b.VM_UFFD_WP)


def page_prot_of(machine: Machine, vma: RefVma, flags: int) -> int:
    """vma_set_page_prot(): without WRITE if the owner wants to hear of the first write."""
    prot = vm_get_page_prot(machine, flags)
    if wants_writenotify(machine, vma, flags, prot):
        prot = vm_get_page_prot(machine, flags & ~b.VM_SHARED)
    return prot


@dataclass(slots=True)
class VmaList:
    """The VMAs of an address space, in address order, and how often they were split and merged."""

    machine: Machine
    vmas: list[RefVma] = field(default_factory=list)
    map_count_limit: int = 65530
    splits: int = 0
    merges: int = 0
    split_at: Callable[[int], None] | None = None

    def copy(self) -> VmaList:
        """An independent copy."""
        return replace(self, vmas=self.vmas.copy(), split_at=None)

    # Questions

    def find(self, addr: int) -> RefVma | None:
        """First VMA that ends above an address."""
        return next((vma for vma in self.vmas if vma.end > addr), None)

    def _neighbours(self, vma: RefVma) -> tuple[RefVma | None, RefVma | None]:
        i = self.vmas.index(vma)
        before = self.vmas[i - 1] if i else None
        after = self.vmas[i + 1] if i + 1 < len(self.vmas) else None
        return before, after

    @property
    def ignored(self) -> int:
        """Flags in which VMAs may differ and still merge (spec 6.4)."""
        return b.VM_SOFTDIRTY | (b.VM_MAYBE_GUARD if self.machine.sticky_flags else 0)

    @property
    def sticky(self) -> int:
        """Flags of its parts that a merged VMA keeps; none before 6.19 (spec 6.4)."""
        return self.ignored if self.machine.sticky_flags else 0

    def _pages(self, vma: RefVma) -> int:
        return (vma.end - vma.start) // self.machine.page_size

    def _mergeable(self, left: RefVma, right: RefVma) -> bool:
        if left.end != right.start or (left.flags ^ right.flags) & ~self.ignored:
            return False
        if left.flags & _SPECIAL or left.file != right.file or left.writenotify != right.writenotify:
            return False
        if left.name != right.name:
            return False
        if left.pgoff + self._pages(left) != right.pgoff:
            return False
        return _same_anon_vma(left, right)

    def anon_vma_compatible(self, left: RefVma, right: RefVma) -> bool:
        """Whether neighbours may share an anon_vma though their protections differ (mm/vma.c)."""
        ignored = _ACCESS | self.ignored
        return (
            left.end == right.start
            and left.file == right.file
            and not (left.flags ^ right.flags) & ~ignored
            and left.pgoff + self._pages(left) == right.pgoff
        )

    # Changes

    def split(self, vma: RefVma, addr: int) -> tuple[RefVma, RefVma]:
        """__split_vma(): the two parts.

        Raises
        ------
        MapCountError
        """
        return self._split(vma, addr)

    def remove(self, gone: list[RefVma]) -> None:
        """Forget VMAs."""
        self.vmas = [vma for vma in self.vmas if vma not in gone]

    def grow(self, vma: RefVma, end: int) -> None:
        """Extend a VMA; one that it meets and is alike becomes one with it."""
        longer = self.put(vma, replace(vma, end=end))
        after = self._neighbours(longer)[1]
        # what is added has no anon_vma of its own: that of `vma` may come from a fork, that of the one behind not
        added = replace(longer, chain=longer.chain[:1])
        if after and self._mergeable(added, after):
            self._join(longer, after)

    def insert(self, vma: RefVma) -> None:
        """Add a VMA where nothing is; alike neighbours become one, as mmap(2) does."""
        for other in self.vmas:
            if other.start < vma.end and vma.start < other.end:
                where = f"[{vma.start:#x}, {vma.end:#x})"
                raise LayoutError(f"range {where} is taken by the VMA at {other.start:#x}; choose a free one")
        self.vmas = sorted([*self.vmas, vma], key=lambda each: each.start)
        before, after = self._neighbours(vma)
        if before and self._mergeable(before, vma):
            vma = self._join(before, vma)
        if after and self._mergeable(vma, after):
            self._join(vma, after)

    def _join(self, left: RefVma, right: RefVma) -> RefVma:
        whole = replace(
            left,
            end=right.end,
            flags=left.flags | (right.flags & self.sticky),
            anon_vma=left.anon_vma or right.anon_vma,
            chain=left.chain if left.anon_vma else right.chain,
        )
        i = self.vmas.index(left)
        self.vmas[i : i + 2] = [whole]
        return whole

    def put(self, old: RefVma, new: RefVma) -> RefVma:
        """Replace a VMA by a changed one."""
        self.vmas[self.vmas.index(old)] = new
        return new

    def modify(self, vma: RefVma, start: int, end: int, flags: int) -> RefVma:
        """vma_modify_flags(): the VMA that [start, end) of `vma` is to become, with these flags.

        A merge is tried first, then `vma` is split. A merged VMA has the new flags
        already; a split one still has the old ones.

        Raises
        ------
        MapCountError
            A split was refused; one that was made before stays.
        """
        wanted = replace(vma, start=start, end=end, flags=flags, pgoff=vma.pgoff + (start - vma.start) // self.machine.page_size)
        before, after = self._neighbours(vma)
        left = before if before and start == vma.start and self._mergeable(before, wanted) else None
        right = after if after and end == vma.end and self._mergeable(wanted, after) else None
        if left and right and left.anon_vma and right.anon_vma and left.anon_vma != right.anon_vma:
            # Each fits the middle, but not the other: the left one wins.
            right = None
        if left or right:
            return self._merge(vma, wanted, left, right)
        if vma.start < start:
            vma = self._split(vma, start)[1]
        if vma.end > end:
            vma = self._split(vma, end)[0]
        return vma

    def _merge(self, vma: RefVma, wanted: RefVma, left: RefVma | None, right: RefVma | None) -> RefVma:
        self.merges += 1
        for addr in {wanted.start, wanted.end} - {vma.start, vma.end}:
            self._tell(addr)
        page = self.machine.page_size
        pieces = [wanted]
        if vma.start < wanted.start:
            pieces.insert(0, replace(vma, end=wanted.start))
        if vma.end > wanted.end:
            pieces.append(replace(vma, start=wanted.end, pgoff=vma.pgoff + (wanted.end - vma.start) // page))
        i = self.vmas.index(vma)
        self.vmas[i : i + 1] = pieces
        whole = wanted
        if left:
            whole = self._join(left, whole)
        if right:
            whole = self._join(whole, right)
        return whole

    def _tell(self, addr: int) -> None:
        """A VMA begins or ends at `addr` from now on: what is mapped across it by one entry is taken apart."""
        if self.split_at is not None:
            self.split_at(addr)

    def _split(self, vma: RefVma, addr: int) -> tuple[RefVma, RefVma]:
        if len(self.vmas) >= self.map_count_limit:
            raise MapCountError
        self.splits += 1
        self._tell(addr)
        low = replace(vma, end=addr)
        high = replace(vma, start=addr, pgoff=vma.pgoff + (addr - vma.start) // self.machine.page_size)
        i = self.vmas.index(vma)
        self.vmas[i : i + 1] = [low, high]
        return low, high


def _same_anon_vma(one: RefVma, other: RefVma) -> bool:
    """is_mergeable_anon_vma(): one of them may have none, if the other one's is not shared with a parent."""
    if one.anon_vma and other.anon_vma:
        return one.anon_vma == other.anon_vma
    return not one.fork_child and not other.fork_child


_anonymous_files = itertools.count(-1, -1)


def new_shared_file() -> int:
    """Identity of the file behind one MAP_SHARED | MAP_ANONYMOUS mapping: each has its own."""
    return next(_anonymous_files)
