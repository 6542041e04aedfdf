"""Fuzzing: every parser and the API of MM, fed with bytes; ``python -m tests.fuzz``.

``targets`` what is fed, each ``target(data: bytes) -> None`` · ``corpus`` valid inputs to
begin with · ``engine`` how bytes are made: by atheris where it is installed, which
watches coverage, by Hypothesis elsewhere, which edits the valid inputs.
"""
