"""The server answers whoever knows the token, on this machine, what there is; nobody else, and nothing else."""

import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from segkit.errors import InputError, UsageError
from segkit.viewer import server as module
from segkit.viewer.server import PageServer, Reply, json_reply, values_reply


def broken() -> Reply:
    raise InputError("/slides/a.tif: is damaged.")


def buggy() -> Reply:
    raise RuntimeError("oops")


def square(number: int) -> Reply:
    if number > 100:
        raise LookupError(number)
    return json_reply(number**2, keep=True)


ROUTES = {
    "": lambda: Reply(b"<p>page</p>", "text/html; charset=utf-8"),
    r"square/(\d{1,9})": square,
    "values": lambda: values_reply(bytes(range(256))),
    "broken": broken,
    "buggy": buggy,
}


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer() as running, running.serving(ROUTES):
        yield running


def ask(
    server: PageServer, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to a path, to which the token is added if it begins with a name."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.putrequest(
            method, path if path.startswith(("/", "http")) else token_of(server) + path, skip_host=True
        )
        if host != "":
            connection.putheader("Host", host or f"127.0.0.1:{server.port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()


def token_of(server: PageServer) -> str:
    """Return the path of the page: `/TOKEN/`."""
    return server.address.removeprefix(f"http://127.0.0.1:{server.port}")


def test_the_page_and_numbers_are_answered(server: PageServer) -> None:
    status, headers, body = ask(server, "")
    assert (status, body, headers["Content-Type"]) == (200, b"<p>page</p>", "text/html; charset=utf-8")
    assert ask(server, "square/7")[::2] == (200, b"49")


def test_values_are_compressed_on_the_way(server: PageServer) -> None:
    import gzip

    _, headers, body = ask(server, "values")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == bytes(range(256))


def test_a_connection_serves_many_requests(server: PageServer) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.connect()
        first = connection.sock
        for number in range(20):
            connection.request("GET", f"{token_of(server)}square/{number}")
            assert connection.getresponse().read() == str(number**2).encode()
        assert connection.sock is first


def test_head_has_no_body(server: PageServer) -> None:
    status, headers, body = ask(server, "", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "11", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/favicon.ico",
        "/square/7",
        "/wrong-token/square/7",
        "/%2e%2e/",
        "http://127.0.0.1/square/7",
        "//square/7",
        "/%C3%A9/square/7",
    ],
)
def test_without_the_token_there_is_nothing(server: PageServer, path: str) -> None:
    status, _, body = ask(server, path)
    assert status == 404
    assert b"token" in body
    assert b"49" not in body


def test_a_token_without_its_last_character_is_none(server: PageServer) -> None:
    token = token_of(server).strip("/")
    assert len(token) >= 32
    for wrong in (token[:-1], token + "a", token.swapcase(), ""):
        assert ask(server, f"/{wrong}/square/7")[0] == 404
    assert ask(server, f"/{token}")[0] == 404
    assert ask(server, f"/{token}/square/7")[0] == 200


def test_every_server_has_another_token() -> None:
    with PageServer() as one, PageServer() as other:
        assert token_of(one) != token_of(other)


@pytest.mark.parametrize(
    "path",
    [
        *("square/101", "square/", "square/-1", "square/1.5", "square/1e3", "square/0x1", "square/1/2", "square"),
        *("square/9999999999", f"square/{'9' * 5000}", "square/%31", "square/1?x=1", "square/1#a", "index.html"),
        *("../square/1", "square/../square/1", "%2e%2e/square/1", "..%2fsquare/1", "square\\1", "square//1"),
    ],
)  # fmt: skip
def test_what_is_no_number_or_name_of_the_page_is_not_there(server: PageServer, path: str) -> None:
    status, headers, body = ask(server, path)
    assert status == 404
    assert headers["Content-Type"].startswith("text/plain")
    assert b"Traceback" not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1:80", "", ":80"]
)
def test_other_names_of_this_machine_are_refused(server: PageServer, host: str) -> None:
    status, _, body = ask(server, "square/7", host=host)
    assert status == 403
    assert b"49" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:9000"])
def test_the_port_may_be_another_one_as_tunnels_have(server: PageServer, host: str) -> None:
    assert ask(server, "square/7", host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_sent(server: PageServer, method: str) -> None:
    status, headers, _ = ask(server, "square/7", method=method)
    assert status == 501
    assert headers["Content-Type"].startswith("text/plain")


def test_answers_say_what_browsers_may_do_with_them(server: PageServer) -> None:
    for path in ("", "square/7", "nothing", "broken"):
        _, headers, _ = ask(server, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"  # the token is in the address
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]
    assert ask(server, "square/7")[1]["Cache-Control"].startswith("private")
    assert ask(server, "")[1]["Cache-Control"] == "no-store"


def test_a_damaged_file_is_told(server: PageServer) -> None:
    assert ask(server, "broken")[::2] == (500, b"/slides/a.tif: is damaged.")


def test_a_bug_is_told_and_logged_and_the_server_goes_on(server: PageServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status, _, body = ask(server, "buggy")
    assert (status, body) == (500, b"a bug in segkit: RuntimeError: oops")
    assert "oops" in caplog.text
    assert ask(server, "square/7")[0] == 200


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"a" * 70_000, b"\x16\x03\x01\x02"]
)
def test_what_is_no_request_does_no_harm(server: PageServer, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"page" not in received
    assert b"Traceback" not in received
    assert ask(server, "square/7")[0] == 200
    assert capfd.readouterr().err == ""


def test_connections_are_limited(server: PageServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(module.MOST_CONNECTIONS)]
    try:
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            ask(server, "square/7")
        assert threading.active_count() < module.MOST_CONNECTIONS + 20
    finally:
        for one in idle:
            one.close()
    for _ in range(100):  # the threads see that they were left
        try:
            assert ask(server, "square/7")[0] == 200
            break
        except (ConnectionError, http.client.BadStatusLine):
            threading.Event().wait(0.05)
    else:
        pytest.fail("no connection came free")


def test_a_port_in_use_is_told() -> None:
    with PageServer() as first:
        with pytest.raises(UsageError, match=f"port {first.port} is in use.*--port") as caught:
            PageServer(first.port)
        assert "\n" not in str(caught.value)


def test_after_the_end_no_route_is_called() -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> Reply:
        began.set()
        go_on.wait(10)
        ended.set()
        return json_reply(1)

    with PageServer() as server, server.serving({"slow": slow}):
        asking = threading.Thread(target=lambda: ask(server, "slow"), daemon=True)
        asking.start()
        assert began.wait(10)
        threading.Timer(0.2, go_on.set).start()
    # What was running when it ended has been waited for.
    assert ended.is_set()
    asking.join(10)
    with pytest.raises(OSError, match="refused"):
        ask(server, "slow")


def test_a_connection_that_is_left_over_is_told_of_the_end() -> None:
    with PageServer() as server, closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as browser:
        with server.serving(ROUTES):
            browser.request("GET", f"{token_of(server)}square/3")
            assert browser.getresponse().read() == b"9"
        browser.request("GET", f"{token_of(server)}square/3")
        answer = browser.getresponse()
        assert (answer.status, answer.read()) == (503, b"The viewer has been stopped.")


def test_a_port_is_free_again_in_the_end() -> None:
    with PageServer() as server:
        assert server.port
    with PageServer(server.port) as again:
        assert again.port == server.port


def test_it_listens_on_this_machine_only(server: PageServer) -> None:
    assert server.address.startswith("http://127.0.0.1:")
    others = {one[4][0] for one in socket.getaddrinfo(socket.gethostname(), server.port, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        if address.startswith("127."):
            continue  # of the same loopback interface, and another address: nobody listens there either
        with pytest.raises(OSError, match=r"refused|unreachable"):
            socket.create_connection((str(address), server.port), timeout=5).close()
