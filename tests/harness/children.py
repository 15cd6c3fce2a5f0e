"""Child processes that cannot outlive the test run, however it ends."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress


def dies_with_us(command: Sequence[str]) -> list[str]:
    """Return `command` so that the kernel kills it when the thread that starts it dies.

    For the test run that is itself killed and can clean nothing up. Only where util-linux is.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else [*command]


def kill_group(leader: subprocess.Popen[bytes]) -> None:
    """Kill the process group of `leader` and wait for the leader; ended already is fine."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait(timeout=10)
