"""Rewrite units that equal a remembered one: the loops that decide the speed.

Built for AVX2; `ptebatch.isa` chooses at import.
"""

def supported() -> bool:
    """Whether this CPU runs the AVX2 build."""

def replay_capsule() -> object:
    """The replay function of this build, for mm.pyx."""
