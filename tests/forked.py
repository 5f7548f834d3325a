"""For scripts that die on purpose: run a function in a forked child and see how it ended."""

from __future__ import annotations

import os
from collections.abc import Callable


def exit_code_of(function: Callable, *arguments) -> int:
    """0 for a return, 1 for an exception, minus the signal's number for a kill."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
