"""Uvicorn with limits on what a client can hold without going on, and with a quiet log.

Uvicorn waits for ever for the rest of a request's head and for a client that does not read, and
takes connections until the process has no file descriptors left. Time limits on bodies are the
guard's.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from system.stopping import PATIENCE, SIGNALS, exit_now

MAX_CONNECTIONS = 256  # at a time, as far as the process may open files
OTHER_FILES = 100  # descriptors for everything else: libraries, and the connections being accepted
HEAD_SECONDS = 15  # for the head of a request
HEAD_BYTES = 16_384
LINGER_BYTES = 8e6  # of a refused body, which are read so that the client sees the answer
WRITE_SECONDS = 60  # in which a client may read nothing of an answer
GRACE_SECONDS = 3  # for answers that are on their way when the server ends
LOOK_SECONDS = 1  # between looks for what is over time
ACCEPT = 16  # connections accepted at once, so that there is time to drop others
BACKLOG = 512  # of the system: connections that are not accepted yet
QUIET_SECONDS = 60  # in which a message is printed once


class Connection(H11Protocol):
    """HTTP/1.1 connection that gives its place up if its client does not go on."""

    since = 0.0  # when the client was last known to go on
    unsent = 0  # bytes of answers that the client has not taken yet
    unsent_since = 0.0
    ignored = 0  # bytes of the body that came after the answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the place of the connection that has waited longest, if there is none left."""
        super().connection_made(transport)
        self.since = time.monotonic()
        held = [c for c in self.connections if isinstance(c, Connection) and c.is_open]
        if len(held) > max_connections():
            waiting = [c for c in held if c.waits and c is not self]
            min(waiting, key=lambda c: c.since, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Note that a body goes on; a head that does has no more time for that."""
        if not self.waits_for_head:
            self.since = time.monotonic()
        elif self.conn.their_state is h11.SEND_BODY:
            self.ignored += len(data)
            if self.ignored > LINGER_BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next head."""
        self.since = time.monotonic()
        self.ignored = 0
        super().on_response_complete()

    def shutdown(self) -> None:
        """Drop a client that has not sent its whole request; others get their answers."""
        if self.waits:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def is_open(self) -> bool:
        """Whether it still counts."""
        return not self.transport.is_closing()

    @property
    def waits_for_head(self) -> bool:
        """Whether there is no request at hand."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn."""
        return self.waits_for_head or self.cycle.more_body

    def is_overdue(self, now: float) -> bool:
        """Whether the client has taken too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self.unsent or not unsent:
            self.unsent, self.unsent_since = unsent, now
        if unsent:
            return now - self.unsent_since > WRITE_SECONDS
        return self.waits_for_head and now - self.since > HEAD_SECONDS


def max_connections() -> int:
    """Connections at a time; each may open a file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (files - OTHER_FILES) // 2))


class Quiet(logging.Filter):
    """Lets a message through once in a while, with the number of those it has held back."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to print a record."""
        # What comes behind the first line of asyncio's messages differs each time.
        key = f"{record.name} {str(record.msg).partition(chr(10))[0]}"
        now = time.monotonic()
        since, held = self.seen.get(key, (-QUIET_SECONDS, 0))
        if now - since < QUIET_SECONDS:
            self.seen[key] = since, held + 1
            return False
        self.seen[key] = now, 0
        if held:
            record.msg = f"{record.getMessage()} ({held} more like this since the last one)"
            record.args = None
        return True


class Server(uvicorn.Server):
    """Uvicorn with these limits.

    Args:
        app: the application.
        host: address to listen at.
        port: 0 takes any that is free.
        on_start: called when it listens.
    """

    def __init__(
        self, app: ASGIApp, host: str, port: int, on_start: Callable[[], None] = lambda: None
    ) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Connection,
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=ACCEPT,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_graceful_shutdown=2 * GRACE_SECONDS,
        )
        super().__init__(config)
        self.on_start = on_start
        self.signal: int | None = None
        self.came = 0.0
        self.listening = config.bind_socket()

    @property
    def port(self) -> int:
        """Port that it listens at."""
        return int(self.listening.getsockname()[1])

    def serve_until_stopped(self) -> None:
        """Serve until a signal or `should_exit`.

        Raises:
            KeyboardInterrupt: after a signal, from the handler that was there before.
        """
        quiet = Quiet()
        loggers = [logging.getLogger(name) for name in ("asyncio", "uvicorn.error", "web.app")]
        for logger in loggers:
            logger.addFilter(quiet)
        try:
            self.run(sockets=[self.listening])
        finally:
            for logger in loggers:
                logger.removeFilter(quiet)
        if self.signal is not None:
            signal.raise_signal(self.signal)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have signals end the server in order; uvicorn's own way raises them inside its loop."""
        if threading.current_thread() is not threading.main_thread():  # which alone may do this
            yield
            return
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in before:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server; a further signal ends the process, once there was time to tidy up."""
        if self.signal is None:
            self.signal, self.came = sig, time.monotonic()
            self.should_exit = True
        elif time.monotonic() - self.came > PATIENCE:
            exit_now(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and begin to look for connections that are over time."""
        await super().startup(sockets)
        self.listening.listen(BACKLOG)  # asyncio has set it to the number accepted at once
        self.watch = asyncio.create_task(self.close_overdue())
        self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; drop clients that do not take their answers."""
        self.watch.cancel()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self.drop_all)
        await super().shutdown(sockets)

    def drop_all(self) -> None:
        """Close all connections, which ends what is done for them."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def close_overdue(self) -> None:
        """Close connections whose clients have taken too long."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            connections: list[Any] = list(self.server_state.connections)
            for connection in connections:
                if isinstance(connection, Connection) and connection.is_overdue(now):
                    connection.transport.abort()
