"""mprotect(2): checks, the loop over VMAs, and what each VMA needs.

Restates spec 6.1 to 6.3. Kernel counterpart: mm/mprotect.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import bits as b
from ..machine import Machine
from .vma import MapCountError, RefVma, VmaList, page_prot_of, wants_writenotify

_ACCESS = b.VM_READ | b.VM_WRITE | b.VM_EXEC
_PROT_ACCESS = b.PROT_READ | b.PROT_WRITE | b.PROT_EXEC
_U64 = (1 << 64) - 1


@dataclass
class Refused(Exception):
    """A check refused: errno, address and which one."""

    errno: int
    addr: int
    reason: str


@dataclass(slots=True)
class Limits:
    """What mprotect() is limited by, in pages; None: by nothing."""

    data_pages: int | None = None
    commit_pages: int | None = None
    read_implies_exec: bool = False


#: called for each VMA that changes: (vma, start, end, newprot, cp_flags)
Walker = Callable[[RefVma, int, int, int, int], None]


@dataclass(slots=True)
class Mprotect:
    """One call.

    Parameters
    ----------
    machine : Machine
    vmas : VmaList
    limits : Limits
    pkeys : set of int
        Allocated protection keys.
    walk : callable
        Changes the page tables of one VMA's part.
    """

    machine: Machine
    vmas: VmaList
    limits: Limits
    pkeys: set[int]
    walk: Walker

    def __call__(self, start: int, length: int, prot: int, pkey: int = -1) -> None:
        """Do it.

        Raises
        ------
        Refused
            What was changed before stays changed.
        """
        # Addresses of user memory may carry a tag in their top byte.
        start &= (start & ((1 << 56) - 1)) | (0xFF << 56 if start >> 55 & 1 else 0)
        grows = prot & (b.PROT_GROWSDOWN | b.PROT_GROWSUP)
        if grows == b.PROT_GROWSDOWN | b.PROT_GROWSUP:
            raise Refused(errno.EINVAL, start, f"prot={prot:#x} grows both ways")
        if start % self.machine.page_size:
            raise Refused(errno.EINVAL, start, f"start={start:#x} is not page aligned")
        if length == 0:
            return
        page = self.machine.page_size
        length = (length + page - 1) // page * page & _U64
        end = start + length & _U64
        if end <= start:
            raise Refused(errno.ENOMEM, start, f"length={length:#x} wraps around")
        prot &= ~grows
        if prot & ~self._known_prot():
            raise Refused(errno.EINVAL, start, f"prot={prot:#x} has unknown bits")
        if pkey != -1 and pkey not in self.pkeys:
            raise Refused(errno.EINVAL, start, f"pkey={pkey} is not allocated")
        vma = self.vmas.find(start)
        if vma is None or vma.start >= end:
            raise Refused(errno.ENOMEM, start, f"nothing is mapped in [{start:#x}, {end:#x})")
        if grows == b.PROT_GROWSDOWN:
            if not vma.flags & b.VM_GROWSDOWN:
                raise Refused(errno.EINVAL, vma.start, f"VMA {vma.start:#x} does not grow down")
            start = vma.start
        elif vma.start > start:
            raise Refused(errno.ENOMEM, start, f"hole at {start:#x}")
        elif grows:
            raise Refused(errno.EINVAL, vma.start, "no VMA grows up on arm64")
        self._loop(vma, start, end, prot, pkey)

    def _known_prot(self) -> int:
        known = _PROT_ACCESS | b.PROT_SEM
        if self.machine.bti:
            known |= b.PROT_BTI
        if self.machine.mte:
            known |= b.PROT_MTE
        return known

    def _loop(self, vma: RefVma | None, start: int, end: int, prot: int, pkey: int) -> None:
        assert vma is not None
        nstart, expect = start, vma.start
        while vma is not None and vma.start < end:
            if vma.start != expect:
                raise Refused(errno.ENOMEM, expect, f"hole at {expect:#x}")
            flags = self._newflags(vma, prot, pkey)
            self._check(vma, nstart, flags)
            changed = self._fixup(vma, nstart, min(vma.end, end), flags)
            # After a merge the VMA may reach beyond the range.
            nstart = expect = changed.end
            vma = self.vmas.find(expect)
        if expect < end:
            raise Refused(errno.ENOMEM, expect, f"hole at {expect:#x}")

    def _newflags(self, vma: RefVma, prot: int, pkey: int) -> int:
        if self.limits.read_implies_exec and prot & b.PROT_READ and vma.flags & b.VM_MAYEXEC:
            prot |= b.PROT_EXEC
        flags = vma.flags & ~(_ACCESS | b.VM_ARM64_BTI | b.VM_PKEY_MASK)
        flags |= prot & _PROT_ACCESS
        if prot & b.PROT_BTI:
            flags |= b.VM_ARM64_BTI
        if prot & b.PROT_MTE:
            flags |= b.VM_MTE
        if pkey == -1:
            return flags | (vma.flags & b.VM_PKEY_MASK)
        return flags | pkey << b.VM_PKEY_SHIFT

    def _check(self, vma: RefVma, addr: int, flags: int) -> None:
        may = flags >> 4
        if flags & ~may & _ACCESS:
            raise Refused(errno.EACCES, addr, f"VMA {vma.start:#x} may not have this access")
        if self.machine.mdwe and flags & b.VM_EXEC and (flags & b.VM_WRITE or not vma.flags & b.VM_EXEC):
            raise Refused(errno.EACCES, addr, f"MDWE: VMA {vma.start:#x} may not gain execution")
        if flags & b.VM_MTE and not flags & b.VM_MTE_ALLOWED:
            raise Refused(errno.EINVAL, addr, f"VMA {vma.start:#x} cannot have tags")

    # One VMA

    def _fixup(self, vma: RefVma, start: int, end: int, flags: int) -> RefVma:
        """mprotect_fixup() (spec 6.3): returns the VMA that covers [start, end) afterwards."""
        old = vma.flags
        if old & b.VM_SEALED:
            raise Refused(errno.EPERM, start, f"VMA {vma.start:#x} is sealed")
        if flags == old:
            return vma
        flags = self._charge(vma, start, end, flags)
        try:
            vma = self.vmas.modify(vma, start, end, flags)
        except MapCountError:
            raise Refused(errno.ENOMEM, start, f"VMA {vma.start:#x} cannot be split: too many VMAs") from None
        # What a merge brought along stays.
        flags |= vma.flags & self.vmas.sticky
        # The decision is made with the page protection from before.
        if flags & b.VM_SHARED:
            upgrade = wants_writenotify(self.machine, vma, flags, vma.page_prot)
        else:
            upgrade = bool(flags & b.VM_WRITE)
        prot = page_prot_of(self.machine, vma, flags)
        vma = self.vmas.put(vma, replace(vma, flags=flags, page_prot=prot))
        self.walk(vma, start, end, prot, b.MM_CP_TRY_CHANGE_WRITABLE if upgrade else 0)
        return vma

    def _charge(self, vma: RefVma, start: int, end: int, flags: int) -> int:
        """Limits and ACCOUNT: the flags that the VMA really gets."""
        old = vma.flags
        pages = (end - start) // self.machine.page_size
        if flags & b.VM_WRITE:
            if self._exceeds_data(flags, pages) and not self._exceeds_data(old, pages):
                raise Refused(errno.ENOMEM, start, "limit of data pages")
            if not old & (b.VM_ACCOUNT | b.VM_WRITE | b.VM_HUGETLB | b.VM_SHARED | b.VM_NORESERVE):
                limit = self.limits.commit_pages
                if limit is not None and self._pages(b.VM_ACCOUNT, b.VM_ACCOUNT) + pages > limit:
                    raise Refused(errno.ENOMEM, start, "commit limit")
                flags |= b.VM_ACCOUNT
        elif old & b.VM_ACCOUNT and vma.anonymous and not vma.anon_vma:
            flags &= ~b.VM_ACCOUNT
        return flags

    def _pages(self, mask: int, value: int) -> int:
        """Pages of all VMAs whose flags under `mask` are `value`."""
        size = sum(vma.end - vma.start for vma in self.vmas.vmas if vma.flags & mask == value)
        return size // self.machine.page_size

    def _exceeds_data(self, flags: int, pages: int) -> bool:
        """Whether so many more pages of this kind exceed the data limit: only private writable ones count."""
        kind = b.VM_WRITE | b.VM_SHARED | b.VM_GROWSDOWN
        if flags & kind != b.VM_WRITE or self.limits.data_pages is None:
            return False
        return self._pages(kind, b.VM_WRITE) + pages > self.limits.data_pages
