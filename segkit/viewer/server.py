"""A small HTTP server for one page on this machine, with a random token in its address.

What it guards against: other machines (it listens on the loopback interface only), other users and programs of this
machine (every address begins with the token), pages of other sites (the name in the Host header has to be this
machine's, which a name that was made to point here is not, and answers may not be read or framed by others). Addresses
hold no paths: what can be asked for is a fixed set of names, and numbers.
"""

import contextlib
import errno
import gzip
import hmac
import http.server
import json
import logging
import os
import re
import secrets
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from segkit.errors import SegkitError, UsageError

log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
HOST_NAMES: Final = frozenset({HOST, "localhost"})

MOST_CONNECTIONS: Final = 64
MOST_AT_WORK: Final = max(2, min(8, os.cpu_count() or 1))
"""Answers that are made at the same time: each may hold some 50 MB while it reads."""

_IDLE_SECONDS = 30
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; "
    # The one rule that OpenSeadragon 6.1.1 adds to a page, by its hash.
    "style-src 'self' 'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Reply(NamedTuple):
    """What is answered: bytes, their media type, and whether the browser may keep them (they never change)."""

    body: bytes
    media_type: str
    keep: bool = False
    gzipped: bool = False


def _say(text: str) -> Reply:
    return Reply(text.encode("utf-8", "backslashreplace"), "text/plain; charset=utf-8")


_STOPPED = HTTPStatus.SERVICE_UNAVAILABLE, _say("The viewer has been stopped.")

Route = Callable[..., Reply]
"""Makes the reply from the numbers in an address; raises LookupError where there is none for them."""


def json_reply(content: Any, *, keep: bool = False) -> Reply:
    """Return a reply of JSON; numbers that are not finite are refused."""
    return Reply(json.dumps(content, allow_nan=False, separators=(",", ":")).encode(), "application/json", keep)


def values_reply(values: bytes) -> Reply:
    """Return a reply of plain bytes, compressed on the way."""
    return Reply(gzip.compress(values, 1), "application/octet-stream", keep=True, gzipped=True)


class PageServer:
    """Has a port while its block runs, and answers while `serving`.

    Parameters
    ----------
    port
        0: any that is free.

    Attributes
    ----------
    port
        The port.
    address
        Of the page, with the token.

    Raises
    ------
    UsageError
        The port is in use, or not allowed.
    """

    def __init__(self, port: int = 0) -> None:
        self._token = secrets.token_urlsafe(24)
        try:
            self._server = _Server(port)
        except OSError as error:
            remedy = "Choose another --port, or 0 for any that is free."
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port {port} is in use by another program. {remedy}") from error
            raise UsageError(f"port {port} cannot be used ({error.strerror}). {remedy}") from error
        self.port = int(self._server.server_address[1])
        self.address = f"http://{HOST}:{self.port}/{self._token}/"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.server_close()

    @contextlib.contextmanager
    def serving(self, routes: Mapping[str, Route]) -> Iterator[None]:
        """Answer, in threads, while the block runs; after it no route is running, and none is called again.

        Parameters
        ----------
        routes
            By what follows the token, a pattern whose groups are numbers of a few digits, e.g. `tiles/(\\d{1,9})`. Each
            is called in several threads at once.
        """
        site = self._server.site = _Site(routes, self._token)
        thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="viewer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            site.close()


class _Site:
    """What is answered to a path."""

    def __init__(self, routes: Mapping[str, Route], token: str) -> None:
        self._routes = [(re.compile(pattern), route) for pattern, route in routes.items()]
        self._token = token.encode()
        # The same few threads do all work: what they allocate stays with them, and is used again.
        self._pool = ThreadPoolExecutor(MOST_AT_WORK, thread_name_prefix="answer")

    def answer(self, path: str) -> tuple[HTTPStatus, Reply]:
        token, slash, rest = path.removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            return HTTPStatus.NOT_FOUND, _say("Open the address that `segkit view` has printed, token included.")
        for pattern, route in self._routes:
            match = pattern.fullmatch(rest)
            if match:
                return self._run(route, rest, [int(number) for number in match.groups()])
        return HTTPStatus.NOT_FOUND, _say("There is nothing of this name.")

    def close(self) -> None:
        """Wait for what is running; connections that are still open get no more than a word."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, route: Route, rest: str, numbers: list[int]) -> tuple[HTTPStatus, Reply]:
        try:
            future = self._pool.submit(route, *numbers)
        except RuntimeError:  # the pool has been shut down
            return _STOPPED
        try:
            return HTTPStatus.OK, future.result()
        except CancelledError:
            return _STOPPED
        except LookupError:
            return HTTPStatus.NOT_FOUND, _say("There is nothing of these numbers.")
        except SegkitError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, _say(str(error))
        except Exception as error:
            # A bug in one tile must not end a server that shows the others; -v shows the traceback.
            log.exception("%s", rest)
            return HTTPStatus.INTERNAL_SERVER_ERROR, _say(f"a bug in segkit: {type(error).__name__}: {error}")


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Threads for connections, as many as there may be."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # an idle browser keeps its connections
    request_queue_size = 32

    site: _Site

    def __init__(self, port: int) -> None:
        self._connections = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((HOST, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("%s from %s broke", request, client_address, exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads a request, asks the site, writes the answer."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        """Answer."""
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if name.lower() not in HOST_NAMES:
            self._write(HTTPStatus.FORBIDDEN, _say(f"The viewer is at http://{HOST}, not under another name."))
            return
        self._write(*self.server.site.answer(self.path))

    do_HEAD = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is none, in plain text."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._write(status, _say(message or explain or status.phrase))

    def _write(self, status: HTTPStatus, reply: Reply) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.media_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Cache-Control", "private, max-age=86400" if reply.keep else "no-store")
        if reply.gzipped:
            self.send_header("Content-Encoding", "gzip")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def version_string(self) -> str:
        """Return what the Server header says."""
        return "segkit"

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the base class's name)
        """Keep requests from the terminal."""
        log.debug(format, *arguments)
