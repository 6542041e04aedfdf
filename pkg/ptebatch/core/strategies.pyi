"""The ways of batching, one step function each, and their table.

The table is the only list of strategies there is; see strategy.pxd for how to
add one. Sources: spec 7; the designs of the v4 discussion are rebuilt from its
text, `folio` from the contract of mm/mprotect.c in 6.17 to 7.3.
"""

def table() -> list[tuple[str, str, str, bool, bool]]:
    """Rows of the strategy table, in order.

    Returns
    -------
    list of tuple
        (name, since, summary, flawed, lookup) for each compiled strategy.
    """
