"""The ways of batching, one step function each, and their table."""

from ..strategies import Strategy

ROWS: tuple[Strategy, ...]
