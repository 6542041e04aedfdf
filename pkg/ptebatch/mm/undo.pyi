"""`Undo`: a call takes back what it did."""

from .space import Space

class Undo:
    def __init__(self, space: Space, start: int, end: int) -> None: ...
