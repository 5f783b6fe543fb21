"""Exit on Ctrl-C, SIGTERM and SIGHUP: with one line, no traceback and code 128 + signal."""

import atexit
import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 5.0  # seconds for cleaning up; a signal after that ends the process at once


def exit_on_signals() -> None:
    """Make signals end this process with one line, until an `InterruptHandler` takes over."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored by nohup and shell scripts
            signal.signal(number, exit_now)


class FastExit:
    """Skips the interpreter's teardown when this process exits.

    With PyTorch loaded, the teardown takes 0.6 to 1.5 seconds, and a signal in that time would
    replace the exit code. Threads are still joined, and functions registered with atexit after
    this are still called. Used as a context manager, it remembers the exit code.
    """

    def __init__(self) -> None:
        self.code = 0
        atexit.register(self.end)  # registered first, so called last

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Remember the exit code."""
        code = error.code if isinstance(error, SystemExit) else error
        self.code = code if isinstance(code, int) else int(code is not None)

    def end(self) -> None:
        """Flush the output and end the process."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the reader may be gone
                stream.flush()
        os._exit(self.code)


def exit_now(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending this process."""
    os.write(2, b"\ninterrupted\n")
    os._exit(128 + number)


class InterruptHandler:
    """Turns the first signal received inside this context into one KeyboardInterrupt.

    Further signals are ignored while the command cleans up: an impatient second Ctrl-C would
    otherwise interrupt the cleanup, with a traceback. Signals that were already ignored, for
    example by nohup, stay ignored.

    Attributes:
        number: the signal received; None until then.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.received_at = 0.0
        self.is_reported = False
        self.process = os.getpid()

    def __enter__(self) -> Self:
        """Install the handler."""
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self.before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in self.before:
            signal.signal(number, self.handle)
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the previous handlers, or ignore signals if one of them ends this process."""
        for number, handler in self.before.items():
            signal.signal(number, handler if self.number is None else signal.SIG_IGN)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the command at the first signal; after `PATIENCE`, end it at the next."""
        if os.getpid() != self.process:  # a worker that was forked
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            raise KeyboardInterrupt
        if self.number is None:
            self.number, self.received_at = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self.received_at > PATIENCE:
            self.report()
            os._exit(self.code)

    @property
    def code(self) -> int:
        """Exit code of the interrupted command."""
        return 128 + (self.number or signal.SIGINT)

    def report(self, hint: str = "") -> None:
        """Print once, on the first rank only, that the command was interrupted."""
        if not self.is_reported and os.environ.get("LOCAL_RANK", "0") == "0":
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(f"\ninterrupted{'; ' * bool(hint)}{hint}", file=sys.stderr, flush=True)
        self.is_reported = True
