"""How a command ends on Ctrl-C, SIGTERM and SIGHUP: one line, 128 + signal, no traceback."""

import atexit
import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 5.0  # seconds to tidy up in; a signal after that ends the process at once


def end_at_once() -> None:
    """Have the signals end this process without more than a line, until a `Stop` handles them."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells in scripts have it
            signal.signal(number, leave)


class QuickEnd:
    """End this process without having the interpreter take itself apart.

    With PyTorch that takes 0.6 to 1.5 seconds, in which a signal would replace the exit code.
    Threads are joined and what is registered with atexit after this is called, as ever. As a
    context manager it learns the exit code.
    """

    def __init__(self) -> None:
        self.code = 0
        atexit.register(self.end)  # the first to be registered is the last to be called

    def __enter__(self) -> Self:
        """Nothing is to be done yet."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Remember the exit code."""
        said = error.code if isinstance(error, SystemExit) else error
        self.code = said if isinstance(said, int) else int(said is not None)

    def end(self) -> None:
        """End the process, with its output written."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # nobody reads any more
                stream.flush()
        os._exit(self.code)


def leave(number: int, frame: FrameType | None) -> None:
    """End this process."""
    os.write(2, b"\ninterrupted\n")
    os._exit(128 + number)


class Stop:
    """Turn the first signal into one KeyboardInterrupt, while this context lasts.

    Further signals are ignored while the command tidies up: an impatient second Ctrl-C would
    otherwise end it halfway, with a traceback. Signals that are ignored already, as by nohup, stay
    so.

    Attributes:
        number: the signal that came; None so far.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.came = 0.0
        self.said = False
        self.process = os.getpid()

    def __enter__(self) -> Self:
        """Handle the signals."""
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self.before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in self.before:
            signal.signal(number, self.handle)
        return self

    def __exit__(self, *error: object) -> None:
        """Handle them as before; ignore them if this process is about to end by one."""
        for number, handler in self.before.items():
            signal.signal(number, handler if self.number is None else signal.SIG_IGN)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the command, the first time."""
        if os.getpid() != self.process:  # a worker that was forked
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            raise KeyboardInterrupt
        if self.number is None:
            self.number, self.came = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self.came > PATIENCE:
            self.farewell()
            os._exit(self.code)

    @property
    def code(self) -> int:
        """The exit code."""
        return 128 + (self.number or signal.SIGINT)

    def farewell(self, hint: str = "") -> None:
        """Say once that the command was interrupted, on the first rank only."""
        if not self.said and os.environ.get("LOCAL_RANK", "0") == "0":
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(f"\ninterrupted{'; ' * bool(hint)}{hint}", file=sys.stderr, flush=True)
        self.said = True
