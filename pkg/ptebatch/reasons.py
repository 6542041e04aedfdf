"""Why mprotect() refused: one sentence for each check, by the core's number (spec 6.1 to 6.4)."""

from __future__ import annotations

__all__ = ["REASONS"]

REASONS: tuple[str, ...] = (
    "no error",
    "prot={prot:#x} has both PROT_GROWSDOWN and PROT_GROWSUP, expected at most one; drop one",
    "start {addr:#x} is not a multiple of the page size; round it down",
    "the range from {addr:#x} on wraps around the address space; give a shorter length",
    "prot={prot:#x} has bits that this machine does not know; expected PROT_READ, PROT_WRITE, PROT_EXEC, PROT_SEM",
    "pkey={pkey} is not allocated; call pkey_alloc() or give -1",
    "no VMA lies in the range from {addr:#x} on; mmap() it first",
    "PROT_GROWSDOWN was given but the VMA at {addr:#x} does not grow down; drop the flag",
    "PROT_GROWSUP was given but the VMA at {addr:#x} does not grow up, none does on arm64; drop the flag",
    "there is a hole at {addr:#x}; what lies before it has been changed, if anything does",
    "the VMA at {addr:#x} may never have the access that prot={prot:#x} asks for; map it with that right",
    "the process is under MDWE and prot={prot:#x} would give the VMA at {addr:#x} execute rights; map it executable at once",
    "the VMA at {addr:#x} does not allow the architecture flags of prot={prot:#x}; map it with them allowed",
    "the VMA at {addr:#x} is sealed; it cannot be changed any more",
    "making {addr:#x} writable exceeds the limit of data pages; raise it with set_limits(data_pages=...)",
    "making {addr:#x} writable exceeds the commit limit; raise it with set_limits(commit_pages=...)",
    "the VMA at {addr:#x} must be split but the map count limit is reached; raise it with set_limits(map_count=...)",
)
