"""How often Python looks for garbage in an agent: seldom among what has lived long.

What an agent remembers is large, stays, and has hardly a cycle in it: with ten thousand VMs, going through all of it
takes as long as a pass, and by default every second pass would bring it about.
"""

from __future__ import annotations

import gc

_YOUNG, _MIDDLE, _OLD = 60_000, 10, 50
"""After how many new objects the young are gone through, more than a pass over ten thousand VMs makes and lets go of
again; and after how many times of that those that outlived it."""


def be_patient() -> None:
    """For the rest of this process."""
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
