"""Receivers that alerts are really sent to: a web server and a mail server on loopback, which can be down."""

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_string
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Web:
    """What a web server received, and what it answers."""

    port: int = 0
    answer: int = 204
    got: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def texts(self) -> list[str]:
        return [str(one["text"]) for one in self.got]


@contextmanager
def a_web_server(port: int = 0) -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if web.answer < 300:
                web.got.append(json.loads(content))
                web.tokens.append(self.headers["Authorization"])
            self.send_response(web.answer)
            if web.answer in (301, 302):
                self.send_header("Location", web.url)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        web.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Mails:
    """What a mail server received."""

    port: int = 0
    got: list[Message] = field(default_factory=list)


@contextmanager
def a_mail_server() -> Iterator[Mails]:
    """As much of SMTP as a delivery needs (RFC 5321)."""
    mails = Mails()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 ready")
            while line := self.rfile.readline().decode().strip():
                word = line.split()[0].upper()
                if word == "DATA":
                    self._say("354 go on")
                    mails.got.append(message_from_string("".join(self._lines())))
                self._say("221 bye" if word == "QUIT" else "250 ok")
                if word == "QUIT":
                    break

        def _lines(self) -> Iterator[str]:
            while (line := self.rfile.readline().decode()) != ".\r\n":
                yield line.removeprefix(".").replace("\r\n", "\n")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        mails.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield mails
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def a_silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]
