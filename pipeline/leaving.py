"""How a job's process ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process at once, with all that was printed.

    All is written and closed by now. While Python winds up, native threads of Ray, torch and Arrow have been seen to
    abort, which would give a job that is done the exit code of a crash: so it doesn't wind up.

    Args:
        code: Exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
