"""Which build of the replay loops runs: chosen once, at import.

``PTEBATCH_ISA=base`` switches the wide path off; ``ISA`` says what is in use.
"""

from __future__ import annotations

import os

from . import _regular_base, _replay_base

__all__ = ["ISA", "LOOPS", "REGULAR", "REPLAY"]

#: the loops by what they replay, numbered as BY_ORDER0 and so on in batch/memo.pxd
LOOPS = ("order0", "uniform", "words", "maps")


def _choose() -> tuple[str, object, object]:
    wanted = os.environ.get("PTEBATCH_ISA", "")
    if wanted not in ("", "base", "v3"):
        raise ImportError(f"PTEBATCH_ISA={wanted!r} is not a build of the core; use base, v3 or nothing")
    if wanted != "base" and _replay_base.supports_v3():
        try:
            from . import _regular_v3, _replay_v3
        except ImportError:
            pass
        else:
            return "v3", _replay_v3.replay_capsule(), _regular_v3.regular_capsule()
    if wanted == "v3":
        raise ImportError("PTEBATCH_ISA='v3' but this CPU or this build lacks x86-64-v3; use base")
    return "base", _replay_base.replay_capsule(), _regular_base.regular_capsule()


ISA, REPLAY, REGULAR = _choose()
