"""The core's copy of the PTE bits, and accessors that golden vectors of every granule hold to the kernel's."""

from __future__ import annotations

from ptebatch import bits
from ptebatch.arm64 import accessors


def test_the_core_has_the_bits_of_python():
    core = accessors.constants()
    assert len(core) == 20
    assert core == {name: getattr(bits, name) for name in core}


def test_entries_of_a_batch_may_differ_in_what_the_flags_of_mprotect_ignore():
    """RDONLY, AF and DIRTY where writability counts (spec 5.2): WRITE decides whether RDONLY stands for dirty."""
    respect_write = 4
    for flip in range(64):
        word = bits.PTE_VALID | bits.PTE_USER | bits.PTE_WRITE
        alike = accessors.pte_batch_clear_ignored(word, respect_write) == accessors.pte_batch_clear_ignored(
            word ^ 1 << flip, respect_write
        )
        assert alike == (1 << flip in (bits.PTE_RDONLY, bits.PTE_AF, bits.PTE_DIRTY)), flip
