"""The table of workloads: a row each, with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import LayoutError, closest
from ..machine import Machine
from ..report import parse_size, size_text
from . import runtimes
from .life import Life, Lived, Parameter, order_of

__all__ = ["WORKLOADS", "Workload", "parse", "run_workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload.

    Attributes
    ----------
    name : str
    program : callable
        ``program(life, size, rounds, **parameters)``.
    parameters : dict of str to Parameter
    """

    name: str
    program: Callable[..., None]
    parameters: Mapping[str, Parameter]

    @property
    def summary(self) -> str:
        """What it does."""
        return (self.program.__doc__ or "").strip()


def _row(name: str, program: Callable[..., None], size: int, rounds: int, **more: Parameter) -> Workload:
    own = {"size": Parameter(size, "bytes of memory", size=True), "rounds": Parameter(rounds, "how often")}
    return Workload(name, program, MappingProxyType(own | more))


def _share(default: int, what: str) -> Parameter:
    return Parameter(default, f"per cent of the pages that are {what} in a round; 0: one page", least=0, most=100)


_ROWS = (
    _row("jit-page", runtimes.jit_page, 4 << 20, 4, patched=_share(5, "patched")),
    _row("jit-region", runtimes.jit_region, 4 << 20, 4, patched=_share(5, "patched")),
    _row("gc-barrier", runtimes.gc_barrier, 4 << 20, 4, written=_share(10, "written")),
    _row(
        "thread-stacks",
        runtimes.thread_stacks,
        256 << 10,
        2,
        threads=Parameter(16, "stacks"),
        plain=Parameter(0, "1: mapped without MAP_STACK, which keeps large folios away", least=0),
        late=Parameter(0, "1: the guard is set behind the touches", least=0),
    ),
    _row("checkpoint", runtimes.checkpoint, 4 << 20, 3, written=_share(10, "written")),
    _row("dismiss", runtimes.dismiss, 4 << 20, 1, dismissed=_share(50, "given back by the child")),
    _row("buffer-pool", runtimes.buffer_pool, 4 << 20, 4, pinned=_share(10, "opened")),
    _row("decommit", runtimes.decommit, 4 << 20, 2, span=Parameter(64 << 10, "bytes of a span", size=True)),
    _row("lazy-free", runtimes.lazy_free, 4 << 20, 2, span=Parameter(64 << 10, "bytes of a span", size=True)),
    _row("wasm-pool", runtimes.wasm_pool, 4 << 20, 4, used=_share(25, "used")),
    _row("uffd-rounds", runtimes.uffd_rounds, 4 << 20, 3, written=_share(10, "written")),
    _row("relro", runtimes.relro, 256 << 10, 1, libraries=Parameter(16, "libraries")),
)

#: every workload by name
WORKLOADS: Mapping[str, Workload] = MappingProxyType({row.name: row for row in _ROWS})


def parse(text: str) -> tuple[Workload, dict[str, int]]:
    """Read ``NAME[,parameter=value…]``.

    Raises
    ------
    LayoutError
        An unknown name or parameter, or a value that is none.
    """
    name, *given = (part.strip() for part in text.split(","))
    if name not in WORKLOADS:
        raise LayoutError(f"workload {name!r} is unknown; {closest(name, list(WORKLOADS))}")
    row = WORKLOADS[name]
    values = {key: parameter.default for key, parameter in row.parameters.items()}
    for part in given:
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in values:
            raise LayoutError(f"parameter {key!r} of workload {name!r} is unknown; {closest(key, list(values))}")
        values[key] = _value(name, key, value, row.parameters[key])
    return row, values


def _value(name: str, key: str, text: str, parameter: Parameter) -> int:
    if parameter.size:
        return parse_size(text)
    if not text.isascii() or not text.isdigit() or not parameter.least <= int(text) <= 1_000_000:
        raise LayoutError(f"{key}={text!r} of workload {name!r} is no number; give a whole one from {parameter.least} on")
    if int(text) > parameter.most:
        raise LayoutError(f"{key}={text} of workload {name!r} is more than all; give 0 to 100 per cent")
    return int(text)


def run_workload(text: str, machine: Machine, folio: int = 0, seed: int = 0) -> Lived:
    """Run a workload on one machine.

    Parameters
    ----------
    text : str
        ``NAME[,parameter=value…]``.
    machine : Machine
    folio : int
        Bytes of the folios that anonymous memory may get; 0: single pages.
    seed : int
        Of what it does at random.

    Returns
    -------
    Lived

    Raises
    ------
    LayoutError
        A text that is none, a size that is not one of folios or no whole number of pages.
    """
    row, values = parse(text)
    page, order = machine.page_size, order_of(folio, machine)
    for key, value in values.items():
        if row.parameters[key].size and (value % page or not page <= value <= 256 << 20):
            raise LayoutError(f"{key}={value} is not whole pages of {size_text(page)}, or more than 256M; round it")
    life = Life(machine, order, seed)
    size, rounds = values.pop("size"), values.pop("rounds")
    row.program(life, size, rounds, **values)
    return life.lived(text, order)
