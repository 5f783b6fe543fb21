"""End a job as soon as the process that started it is gone, even by SIGKILL.

The job inherits the reading end of a pipe that nobody writes to. Reading returns when the last
process that has the writing end open, which is the sweep's alone, is gone.
"""

import os
import signal
import threading

LIFELINE = "SWEEP_LIFELINE"  # environment variable with the pipe's file descriptor


def follow_sweep() -> None:
    """Kill this job and its ranks when the sweep's process is gone; no effect outside sweeps."""
    pipe = os.environ.pop(LIFELINE, None)
    if pipe is None or os.getpgrp() != os.getpid():
        return

    def wait() -> None:
        os.read(int(pipe), 1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
