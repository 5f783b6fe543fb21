"""Run Uvicorn with limits on idle clients and repeated log messages.

Uvicorn itself waits forever for the rest of a request's headers and for clients that do not read,
and accepts connections until the process runs out of file descriptors. `web.guard` limits the time
for bodies.
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

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from system.stopping import PATIENCE, SIGNALS, exit_now

MAX_CONNECTIONS = 256  # at the same time, if the process may open that many files
OTHER_FILES = 100  # file descriptors reserved for libraries and for connections being accepted
HEAD_SECONDS = 15  # for the headers of a request
HEAD_BYTES = 16_384
LINGER_BYTES = 8e6  # of a refused body that are still read, so that the client sees the answer
WRITE_SECONDS = 60  # for which a client may stop reading an answer
GRACE_SECONDS = 3  # to finish sending answers when the server ends
CHECK_SECONDS = 1  # between checks for overdue connections
ACCEPT = 16  # connections accepted at once; few, so that others can be dropped in between
BACKLOG = 512  # connections that the system queues before they are accepted
QUIET_SECONDS = 60  # in which each message is printed only once


class Connection(H11Protocol):
    """HTTP/1.1 connection that can be dropped if its client is idle."""

    since = 0.0  # time of the client's last activity
    unsent = 0  # bytes of answers that the client has not read yet
    unsent_since = 0.0
    ignored = 0  # bytes of the body that arrived after the answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Drop the connection that has been idle longest if there are too many."""
        super().connection_made(transport)
        self.since = time.monotonic()
        open_ones = (c for c in self.connections if not c.transport.is_closing())
        held = [c for c in open_ones if isinstance(c, Connection)]
        if len(held) > max_connections():
            waiting = [c for c in held if c.waits and c is not self]
            min(waiting, key=lambda c: c.since, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Record activity in a body; activity in the headers does not extend their time."""
        if not self.waits_for_head:
            self.since = time.monotonic()
        elif self.conn.their_state is h11.SEND_BODY:
            self.ignored += len(data)
            if self.ignored > LINGER_BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.since = time.monotonic()
        self.ignored = 0
        super().on_response_complete()

    def shutdown(self) -> None:
        """Drop the connection if its request is incomplete; otherwise finish the answer."""
        if self.waits:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def waits_for_head(self) -> bool:
        """Return whether no request is being handled."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Return whether the server is waiting for the client."""
        return self.waits_for_head or self.cycle.more_body

    def is_overdue(self, now: float) -> bool:
        """Return whether the client has exceeded its time."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self.unsent or not unsent:
            self.unsent, self.unsent_since = unsent, now
        if unsent:
            return now - self.unsent_since > WRITE_SECONDS
        return self.waits_for_head and now - self.since > HEAD_SECONDS


def max_connections() -> int:
    """Return the maximum number of connections; each may open another file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (files - OTHER_FILES) // 2))


class Quiet(logging.Filter):
    """Log filter that passes each message at most once per `QUIET_SECONDS`, with a count."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print a record."""
        # After their first line, asyncio's messages differ each time.
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
    """Uvicorn server with these limits; port 0 means any free port."""

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
        self.signalled_at = 0.0
        self.listening = config.bind_socket()

    @property
    def port(self) -> int:
        """Return the port that the server listens on."""
        return int(self.listening.getsockname()[1])

    def serve_until_stopped(self) -> None:
        """Serve until a signal or `should_exit`.

        Raises:
            KeyboardInterrupt: after a signal, raised by the previous handler.
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
        """Shut the server down on signals; uvicorn itself would raise them inside its loop."""
        if threading.current_thread() is not threading.main_thread():  # only it may set handlers
            yield
            return
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        # What a script puts into the background ignores Ctrl-C, but `kill -INT` is how the script
        # ends a server. SIGHUP stays ignored under nohup.
        before = {
            number: handler
            for number, handler in handlers.items()
            if handler != signal.SIG_IGN or number == signal.SIGINT
        }
        for number in before:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server; a further signal ends the process after some time for cleaning up."""
        if self.signal is None:
            self.signal, self.signalled_at = sig, time.monotonic()
            self.should_exit = True
        elif time.monotonic() - self.signalled_at > PATIENCE:
            exit_now(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening and checking for overdue connections."""
        await super().startup(sockets)
        self.listening.listen(BACKLOG)  # asyncio has set it to ACCEPT
        self.checking = asyncio.create_task(self.close_overdue())
        self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down, dropping clients that do not read their answers."""
        self.checking.cancel()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self.drop_all)
        await super().shutdown(sockets)

    def drop_all(self) -> None:
        """Abort all connections and with them their requests."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def close_overdue(self) -> None:
        """Abort overdue connections, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection) and connection.is_overdue(now):
                    connection.transport.abort()
