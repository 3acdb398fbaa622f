"""What an agent settles for its own process: how often Python looks for garbage, and how many files may be open.

What an agent remembers is large, stays, and has hardly a cycle in it: with ten thousand VMs, going through all of it
takes as long as a pass, and by default every second pass would bring it about. Of each VM it holds four files open, and
a shell allows 1024.
"""

from __future__ import annotations

import gc
import resource
from contextlib import suppress

_YOUNG, _MIDDLE, _OLD = 60_000, 10, 50
"""After how many new objects the young are gone through, more than a pass over ten thousand VMs makes and lets go of
again; and after how many times of that those that outlived it."""


_OPEN_FILES = 65_536
"""As many as the service is given."""


def be_patient() -> None:
    """Look seldom for garbage, for the rest of this process."""
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


def open_many() -> None:
    """Have as many files open as this user may, for the rest of this process."""
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    if few != resource.RLIM_INFINITY and few < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
