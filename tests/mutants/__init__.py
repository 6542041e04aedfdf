"""Seeded faults in the core, and the command that shows that each is caught: ``python -m tests.mutants``.

A fault is one exact replacement of text (``*.toml``). All of them are built into
one copy of the core, each behind a number (`schemata`), and each is then run
against the detectors in turn (`detect`): the checker, the golden vectors, the tests.
"""
