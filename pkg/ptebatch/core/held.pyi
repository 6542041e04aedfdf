"""`Exclusive`: what runs one call at a time. Base of `MM` and of the checker."""

from types import TracebackType

class Exclusive:
    """Runs one call at a time; another one meanwhile is refused with `PtebatchError`."""

class Held:
    """It is taken while the block runs."""

    def __init__(self, what: Exclusive) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None: ...
