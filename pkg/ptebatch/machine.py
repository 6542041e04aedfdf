"""The machine an mprotect() call is modelled on: kernel era, geometry, CPU.

One row of spec 10.1 is one switch; a kernel name is a set of switches, and
each may be set apart. Kernel counterparts: arch/arm64/Kconfig (geometry),
arch/arm64/include/asm/tlbflush.h and arch/arm64/mm/contpte.c (the rest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from .errors import MachineError, closest
from .kernels import DEFAULT, ERAS, Era, row_of

__all__ = ["ERA_SWITCHES", "GRANULES", "MACHINES", "Machine"]


#: granule -> (PAGE_SHIFT, CONT_PTES, PTRS_PER_PTE), spec 1.1
GRANULES: Mapping[str, tuple[int, int, int]] = {
    "4K": (12, 16, 512),
    "16K": (14, 128, 2048),
    "64K": (16, 32, 8192),
}

#: fields of `Era` that are switches of a machine too
ERA_SWITCHES = tuple(f.name for f in fields(Era) if f.name not in ("measured", "strategy", "repeat_tlbi_cpus"))


#: kernels whose softleaf types with CONFIG_DEVICE_PRIVATE were read (spec 1.6)
_SOFTLEAVES_READ = ("6.12", "7.3")


def _era_default() -> Any:
    return field(default=None)


@dataclass(frozen=True, slots=True)
class Machine:
    """A kernel on a CPU, or a small geometry that behaves like one.

    Parameters
    ----------
    kernel : str
        A row of ``ptebatch.kernels.ERAS``, or a release that one of them holds for; sets
        every era switch that is not given. Afterwards the row; `release` keeps what was given.
    granule : {"4K", "16K", "64K"}
        Translation granule.
    cont_ptes, ptrs_per_pte : int, optional
        Entries of a contpte block and of a table; default by granule. Powers
        of two, 2 <= cont_ptes <= ptrs_per_pte <= 8192: small ones for pictures.
    contpte : bool
        CONFIG_ARM64_CONTPTE; off is what an architecture without the bit does.
    tlb_range : bool
        FEAT_TLBIRANGE.
    bbml : int
        Break-before-make level of the CPU, 0 to 3.
    hafdbs : bool
        Hardware management of AF and dirty; no influence on mprotect itself.
    lpa2, kpti, repeat_tlbi : bool
        Leaf entries without SH and 64K-aligned range TLBIs; two TLBIs for each;
        the REPEAT_TLBI workaround (one more VALE1IS and DSB a flush).
    epan, bti, mte : bool
        Execute-only mappings; PROT_BTI and PROT_MTE are accepted.
    mdwe : bool
        The process has PR_SET_MDWE: no mapping gains EXEC.
    device_private : bool
        CONFIG_DEVICE_PRIVATE: moves the swap types of migration entries.
    soft_dirty : bool
        Generic soft-dirty rule; arm64 has no such bit, so it changes nothing.
    va_bits : int
        Size of the user address space in bits.
    gather_early_exit, needs_flush, paint_invalid, mkwrite_always, guard_markers, asid_extra_dsb, sticky_flags, \
wp_reuse_large, move_batched, wp_flush_local, map_dirty, wp_flush_by_size, \
cold_invalidates, pt_reclaim, mremap_many, huge_zero_wp, huge_zero_special, split_to_zero, exclusive_write : bool, optional
        Era switches, see `Era`; default by kernel.
    bbml_elides : int, optional
        Era switch, see `Era`.

    Raises
    ------
    MachineError
        A name or number that is not among those above.

    Notes
    -----
    Source: spec 0, 1.1 and 10.1.
    """

    kernel: str = DEFAULT
    granule: str = "4K"
    cont_ptes: int = 0
    ptrs_per_pte: int = 0
    contpte: bool = True
    tlb_range: bool = True
    bbml: int = 0
    hafdbs: bool = True
    lpa2: bool = False
    kpti: bool = False
    repeat_tlbi: bool = False
    epan: bool = False
    bti: bool = False
    mte: bool = False
    mdwe: bool = False
    device_private: bool = False
    soft_dirty: bool = False
    va_bits: int = 48
    gather_early_exit: bool = _era_default()
    needs_flush: bool = _era_default()
    paint_invalid: bool = _era_default()
    mkwrite_always: bool = _era_default()
    bbml_elides: int = _era_default()
    guard_markers: bool = _era_default()
    asid_extra_dsb: bool = _era_default()
    sticky_flags: bool = _era_default()
    wp_reuse_large: bool = _era_default()
    move_batched: bool = _era_default()
    wp_flush_local: bool = _era_default()
    map_dirty: bool = _era_default()
    wp_flush_by_size: bool = _era_default()
    cold_invalidates: bool = _era_default()
    pt_reclaim: bool = _era_default()
    mremap_many: bool = _era_default()
    huge_zero_wp: bool = _era_default()
    huge_zero_special: bool = _era_default()
    split_to_zero: bool = _era_default()
    exclusive_write: bool = _era_default()
    release: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        row = row_of(self.kernel)[0]
        # a copy by replace() carries the release of the one it was made from
        same = self.release and row_of(self.release)[0] == row
        put(self, "release", self.release if same else self.kernel)
        put(self, "kernel", row)
        if not isinstance(self.granule, str) or self.granule not in GRANULES:
            raise MachineError(f"granule {self.granule!r} is not one of arm64's; {closest(str(self.granule), list(GRANULES))}")
        _, cont, ptrs = GRANULES[self.granule]
        era = ERAS[self.kernel]
        for name in ERA_SWITCHES:
            if getattr(self, name) is None:
                put(self, name, getattr(era, name))
        put(self, "cont_ptes", _count("cont_ptes", self.cont_ptes) or cont)
        put(self, "ptrs_per_pte", _count("ptrs_per_pte", self.ptrs_per_pte) or ptrs)
        self._check()

    def _check(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "bool" and not isinstance(value, bool):
                raise MachineError(f"{f.name}={value!r} is not a switch; give True or False")
        for name in ("cont_ptes", "ptrs_per_pte"):
            value = getattr(self, name)
            if value < 2 or value > 8192 or value & (value - 1):
                raise MachineError(f"{name}={value} is not possible; give a power of two from 2 to 8192")
        if self.cont_ptes > self.ptrs_per_pte:
            raise MachineError(
                f"cont_ptes={self.cont_ptes} does not fit in a table of {self.ptrs_per_pte} entries; give ptrs_per_pte too"
            )
        for name, low, high in (("bbml", 0, 3), ("bbml_elides", 0, 3), ("va_bits", 36, 52)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise MachineError(f"{name}={value!r} is not possible; give a number from {low} to {high}")
        if self.lpa2 and self.granule == "64K":
            raise MachineError("lpa2=True does not go with the 64K granule (spec 0); give granule=4K or 16K")

    @property
    def page_shift(self) -> int:
        """log2 of the page size in bytes."""
        return GRANULES[self.granule][0]

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_shift

    @property
    def pmd_order(self) -> int:
        """Order of the largest folio: one whole table of PTEs."""
        return self.ptrs_per_pte.bit_length() - 1

    @property
    def swp_migration_read(self) -> int:
        """Softleaf type of a read migration entry; exclusive and writable follow (spec 1.6)."""
        if not self.device_private:
            return 28
        return 24 if self.exclusive_write else 25

    @property
    def swp_device_write(self) -> int:
        """Softleaf type of a writable device-private entry, 0 without CONFIG_DEVICE_PRIVATE."""
        return self.swp_migration_read + 3 if self.device_private else 0

    @property
    def swp_exclusive_write(self) -> int:
        """Softleaf type of the writable device-exclusive entry, 0 where there is none."""
        return 29 if self.device_private and self.exclusive_write else 0

    @property
    def elides_bbm(self) -> bool:
        """Whether a contpte conversion omits its TLBI and DSBs."""
        return 0 < self.bbml_elides == self.bbml

    @property
    def strategy(self) -> str:
        """Name of the loop this kernel itself runs."""
        return ERAS[self.kernel].strategy

    def numbers(self) -> dict[str, int]:
        """What the compiled core needs to know, by the names of its ``machine`` struct."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.type in ("int", "bool")}
        names = ("page_shift", "swp_migration_read", "swp_device_write", "swp_exclusive_write", "elides_bbm")
        return own | {name: getattr(self, name) for name in names} | {"ptrs_shift": self.pmd_order}

    def notes(self) -> list[str]:
        """Return what to know of this machine: which row holds for the release, and switches without effect."""
        _, note = row_of(self.release)
        said = [note] if note else []
        if self.bbml and not self.elides_bbm:
            level = f"on CPUs of BBM level {self.bbml_elides}" if self.bbml_elides else "never"
            said.append(f"bbml={self.bbml} has no effect: {self.kernel} omits the TLBI of a conversion {level}")
        elif self.bbml and not self.contpte:
            said.append(f"bbml={self.bbml} has no effect without contpte: nothing is converted")
        if self.soft_dirty:
            said.append("soft_dirty=on has no effect: arm64 has no such bit")
        if not self.hafdbs:
            said.append("hafdbs=off has no effect on counts: mprotect() does not ask for it")
        if self.device_private and self.kernel not in _SOFTLEAVES_READ:
            taken = _SOFTLEAVES_READ[-1]
            said.append(f"softleaf types of {self.kernel} with device_private are not known: those of {taken} are taken")
        if self.exclusive_write and not self.device_private and not ERAS[self.kernel].exclusive_write:
            said.append("exclusive_write=on has no effect without device_private")
        return said

    @classmethod
    def parse(cls, text: str) -> Machine:
        """Read ``KERNEL[,switch=value...]``, as the command line takes it; the kernel may be left out.

        Parameters
        ----------
        text : str
            For example ``7.3,bbml=3,granule=16K``; values yes/no, on/off, 1/0 or
            true/false for switches, whole numbers or names for the others.

        Returns
        -------
        Machine

        Raises
        ------
        MachineError
            An unknown kernel, switch or value.
        """
        if not isinstance(text, str):
            raise MachineError(f"{text!r} describes no machine; give a text such as '7.3,bbml=3'")
        switches = [part.strip() for part in text.split(",")]
        kernel = DEFAULT if "=" in switches[0] else switches.pop(0)
        known = {f.name: f for f in fields(cls) if f.name != "release"}
        given: dict[str, Any] = {}
        for switch in switches:
            name, eq, value = (part.strip() for part in switch.partition("="))
            if name not in known or name == "kernel":
                raise MachineError(f"machine switch {name!r} is unknown; {closest(name, [n for n in known if n != 'kernel'])}")
            if name in given:
                raise MachineError(f"machine switch {name!r} is given twice; keep one")
            if not eq:
                raise MachineError(f"machine switch {name!r} has no value; write {name}=VALUE")
            given[name] = _value(name, str(known[name].type), value)
        return cls(kernel=kernel, **given)

    def __str__(self) -> str:
        plain = Machine(kernel=self.kernel, granule=self.granule)
        parts = [self.kernel]
        for f in fields(self):
            value = getattr(self, f.name)
            shown = self.granule != "4K" if f.name == "granule" else value != getattr(plain, f.name)
            if f.name not in ("kernel", "release") and shown:
                parts.append(f"{f.name}={_show(value)}")
        return ",".join(parts)


def _show(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _count(name: str, value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise MachineError(f"{name}={value!r} is not a whole number; give a power of two from 2 to 8192")
    return value


_WORDS = {"1": True, "on": True, "yes": True, "true": True, "0": False, "off": False, "no": False, "false": False}


def _value(name: str, kind: str, text: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in _WORDS:
            raise MachineError(f"{name}={text!r} is not a switch value; give on or off")
        return _WORDS[text.lower()]
    try:
        return int(text, 0)
    except ValueError:
        raise MachineError(f"{name}={text!r} is not a whole number; give one, such as 2 or 0x10") from None


#: the machine of every kernel with nothing else said, oldest first
MACHINES: Mapping[str, Machine] = MappingProxyType({kernel: Machine(kernel) for kernel in ERAS})
