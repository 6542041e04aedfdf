"""Which build of the replay loops runs: chosen once, at import.

``PTEBATCH_ISA=base`` switches the wide path off; ``ISA`` says what is in use.
"""

from __future__ import annotations

import os

from .core import _replay_base

__all__ = ["ISA", "REPLAY"]


def _choose() -> tuple[str, object]:
    wanted = os.environ.get("PTEBATCH_ISA", "")
    if wanted not in ("", "base", "v3"):
        raise ImportError(f"PTEBATCH_ISA={wanted!r} is not a build of the core; use base, v3 or nothing")
    if wanted != "base":
        try:
            from .core import _replay_v3
        except ImportError:
            pass
        else:
            if _replay_v3.supported():
                return "v3", _replay_v3.replay_capsule()
    if wanted == "v3":
        raise ImportError("PTEBATCH_ISA='v3' but this machine or this build has no AVX2; use base")
    return "base", _replay_base.replay_capsule()


ISA, REPLAY = _choose()
