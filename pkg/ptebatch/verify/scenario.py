"""One scenario of the golden vectors: its start state, and the engines that run it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..bits import PG_ANON_EXCLUSIVE
from ..counters import COUNTERS
from ..kernels import ERAS
from ..machine import GRANULES, Machine
from ..mm.mm import MM
from ..mm.result import Result
from .load import Node, Words

__all__ = ["ENGINES", "Engine", "Scenario", "Vectors"]


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine of the golden vectors is called here.

    Parameters
    ----------
    strategy, kernel : str
    bbml : int
        Least break-before-make level; a scenario may ask for more.
    """

    strategy: str
    kernel: str
    bbml: int = 0

    def machine(self, granule: str, *, elides: bool) -> Machine:
        """The engine's machine; `elides`: on a CPU whose conversions need no TLBI, if its kernel knows one."""
        return Machine(self.kernel, granule=granule, bbml=max(self.bbml, elides * ERAS[self.kernel].bbml_elides))


#: engine of the vectors -> strategy and machine
ENGINES: dict[str, Engine] = {
    "l612": Engine("per-pte", "6.12"),
    "l73": Engine("folio", "7.3"),
    "nested": Engine("nested", "7.3"),
    "stateless": Engine("lookahead", "7.3"),
    "iter": Engine("iterator", "7.3"),
    "merged": Engine("merged", "7.3"),
    "l73_bbml3": Engine("folio", "7.3", 3),
}

_MIN_PAGES, _MAX_PAGES = 1 << 16, 1 << 26


@dataclass(frozen=True, slots=True)
class Vectors:
    """Head of a file of golden vectors.

    Parameters
    ----------
    granule : str
    page_shift, ptrs_per_pte, pfn_base : int
    counters : tuple of str
        Names of the counters of every result, in its order.
    scenarios : list of Node
    """

    granule: str
    page_shift: int
    ptrs_per_pte: int
    pfn_base: int
    counters: tuple[str, ...]
    scenarios: list[Node]

    @classmethod
    def read(cls, doc: Node) -> Vectors:
        """Check the head; the geometry must be one of arm64's."""
        granule = f"{doc.key('granule_kb').whole()}K"
        if granule not in GRANULES:
            doc.key("granule_kb").wrong(f"a granule; known: {', '.join(GRANULES)}")
        shift, cont, ptrs = GRANULES[granule]
        for size, value in (("page_shift", shift), ("cont_ptes", cont), ("ptrs_per_pte", ptrs)):
            if doc.key(size).whole() != value:
                doc.key(size).wrong(f"{value}, which the {granule} granule has")
        names = doc.key("counters").items()
        for name in names:
            if name.text() not in COUNTERS:
                name.wrong("the name of a counter; see `ptebatch list counters`")
        scenarios = doc.key("scenarios").items()
        if not scenarios:
            doc.key("scenarios").fail("holds no scenario; nothing would be verified")
        return cls(granule, shift, ptrs, doc.key("pfn_base").word(), tuple(n.text() for n in names), scenarios)


class Scenario:
    """One scenario: the start state and the call.

    Parameters
    ----------
    head : Vectors
    node : Node
        The scenario in the document.
    """

    def __init__(self, head: Vectors, node: Node) -> None:
        """See the class."""
        self.head = head
        self.name = node.key("name").text()
        self.node = node = node.named(self.name)
        self.size = 2 * head.ptrs_per_pte
        self.base = node.key("base").word()
        if self.base % (head.ptrs_per_pte << head.page_shift) or self.base >= 1 << 47:
            node.key("base").wrong("a user address aligned to a leaf table")
        self.bbml = node.key("bbml").whole(0, 1)
        self.init = node.key("init").runs(self.size, head.page_shift)
        self.start, self.nr = (node.key(name).whole(low, self.size) for name, low in (("start", 0), ("nr", 1)))
        if self.start + self.nr > self.size:
            node.key("nr").fail(f"{self.nr} entries from {self.start} on end behind the {self.size} entries of two leaf tables")
        self.folios = [(f, f.wholes(4)) for f in node.key("folios").items()]
        top = max((row[0] + (1 << min(row[1], 13)) for _, row in self.folios), default=0)
        if top > head.pfn_base + _MAX_PAGES:
            node.key("folios").fail(f"a folio ends at pfn {top:#x}; expected pfns close to {head.pfn_base:#x}")
        self.nr_pages = max(_MIN_PAGES, top - head.pfn_base)
        self.exclusive = self._exclusive()

    def _exclusive(self) -> Words:
        """Pages that are PageAnonExclusive at the time of the call, as offsets from pfn_base."""
        mask = np.zeros(self.nr_pages, bool)
        for run in self.node.key("pae").items():
            first, nr = run.wholes(2)
            at = first - self.head.pfn_base
            if at < 0 or at + nr > self.nr_pages:
                run.fail(f"pages {first:#x}..{first + nr:#x} are outside of every folio")
            mask[at : at + nr] = True
        return np.flatnonzero(mask).astype(np.uint64)

    def mm(self, machine: Machine) -> MM:
        """Two leaf tables, empty, and the folios; no page is exclusive."""
        with self.node.guard():
            mm = MM(machine, pfn_base=self.head.pfn_base, nr_pages=self.nr_pages)
            mm.populate(self.base, self.size << self.head.page_shift)
        for node, (pfn, order, anon, skip) in self.folios:
            with node.guard():
                mm.set_folio(pfn, order, anon=bool(anon), numa_skip=bool(skip))
        return mm

    def run(self, engine: Engine) -> tuple[MM, Result]:
        """Do the call of this scenario."""
        mm = self.mm(engine.machine(self.head.granule, elides=bool(self.bbml)))
        mm.ptes(self.base, self.size)[:] = self.init
        mm.pages[self.exclusive] |= PG_ANON_EXCLUSIVE
        node = self.node
        with node.guard():
            result = mm.change_protection(
                self.address(self.start),
                self.nr,
                newprot=node.key("newprot").word(),
                cp_flags=node.key("cp").whole(0, 15),
                vm_flags=node.key("vmf").whole(),
                anon=bool(node.key("anon").whole(0, 1)),
                strategy=engine.strategy,
            )
        return mm, result

    def address(self, index: int) -> int:
        """Address of an entry."""
        return self.base + (index << self.head.page_shift)

    def index(self, addr: int) -> int:
        """Entry that an address is in."""
        return (addr - self.base) >> self.head.page_shift

    def final(self, engine: str) -> Words:
        """PTEs after the call; ``=NAME`` refers to another engine's."""
        seen: list[str] = []
        node = self.node.key("res").key(engine).key("fin")
        while isinstance(node.value, str):
            seen.append(engine)
            engine = node.value.removeprefix("=")
            if not node.value.startswith("=") or engine in seen or engine not in self.node.key("res").members():
                node.wrong("a PTE run list or =ENGINE of another engine")
            node = self.node.key("res").key(engine).key("fin")
        return node.runs(self.size, self.head.page_shift)
