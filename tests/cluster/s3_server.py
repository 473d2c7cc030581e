"""A real S3 server on loopback, and a proxy before it that can fail as S3 does."""

import http.client
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest

BUCKET = "weft-tests"
FRAMING = frozenset({"transfer-encoding", "connection", "content-length", "expect"})


class Proxy:
    """Passes requests on. `answer`: what becomes of each meanwhile: None passes, a number is the status of
    an error, "slow" waits, "lost" carries the request out and cuts the answer off."""

    def __init__(self, port: int) -> None:
        self.answer: int | str | None = None
        self.left: int | None = None  # so many requests; None: until told otherwise
        self.seen: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.whole_body()
                proxy.seen.append(f"{self.command} {self.path}")
                answer = proxy.take()
                if isinstance(answer, int):
                    text = b"<Error><Code>SlowDown</Code><Message>told to</Message></Error>"
                    self.send_response(answer)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(text)
                    return
                if answer == "slow":
                    time.sleep(1)
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                headers = {key: value for key, value in self.headers.items() if key.lower() not in FRAMING}
                upstream.request(self.command, self.path, body, headers)
                found = upstream.getresponse()
                data = found.read()
                upstream.close()
                if answer == "lost":
                    self.close_connection = True
                    return
                self.send_response_only(found.status)
                for key, value in found.getheaders():
                    if key.lower() not in FRAMING:
                        self.send_header(key, value)
                size = found.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", size or str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def whole_body(self) -> bytes:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                chunks = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    """Trailers."""
                return b"".join(chunks)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, *of: Any) -> None:
                """Says nothing."""

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.upstream = f"http://127.0.0.1:{port}"  # past the proxy
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def take(self) -> int | str | None:
        with self._lock:
            if self.answer is None:
                return None
            if self.left is not None:
                if self.left == 0:
                    return None
                self.left -= 1
            return self.answer

    @contextmanager
    def failing(self, answer: int | str, requests: int | None = None) -> Iterator[None]:
        self.answer, self.left = answer, requests
        try:
            yield
        finally:
            self.answer = None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving() -> Iterator[Proxy]:
    """A server with one bucket, `BUCKET`; boto3's variables lead there through the proxy."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    proxy = Proxy(port)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (
                ("AWS_ENDPOINT_URL", proxy.url),
                ("AWS_ACCESS_KEY_ID", "canary-key"),
                ("AWS_SECRET_ACCESS_KEY", "canary-secret"),
                ("AWS_DEFAULT_REGION", "us-east-1"),
            ):
                patch.setenv(name, value)
            boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
            yield proxy
    finally:
        proxy.close()
        server.stop()
