"""The window's server: three files of its own, and answers in JSON. Nothing else is read or asked for.

A page of another site may not use it: it answers requests for its own address alone, and takes what is posted as JSON,
which a browser sends elsewhere only after asking.
"""

import json
from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from deme_core.errors import InputError
from deme_core.explore.answers import opened, shown
from deme_core.explore.asked import Asked, Kept
from deme_core.explore.session import Session
from deme_core.json_files import parse_json
from deme_core.naming import said
from deme_core.naming import shown as printable
from deme_core.params import section

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"), "/explore.css": ("explore.css", "text/css"),
    "/explore.js": ("explore.js", "text/javascript"),
}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
}  # fmt: skip
LARGEST = 1 << 20  # bytes of a request


class Window(ThreadingHTTPServer):
    """The server of one session."""

    daemon_threads = True

    def __init__(self, session: Session, host: str, port: int) -> None:
        """Bind, and answer nothing yet.

        Raises:
            InputError: the address is not to be had.
        """
        self.session = session
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--host {host} --port {port}: {said(error)}; --port 0 takes a free one") from None

    def server_bind(self) -> None:
        """Without the look-up of this machine's name, which asks other ones."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def address(self) -> str:
        """For a browser."""
        return f"http://{self.server_name}:{self.server_port}"

    @cached_property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return ip_address(self.server_name).is_loopback

    def posted(self, path: str, body: Any) -> dict[str, Any] | None:
        """The answer to what was posted; None where nothing has this name.

        Raises:
            InputError: a mistake in it.
        """
        if path == "/show":
            return shown(self.session, section({"show": body}, "show", Asked))
        if path == "/save":
            kept = section({"save": body}, "save", Kept)
            self.session.save(kept.weights, Path(kept.folder))
            return {"said": f"saved: {Path(kept.folder).resolve()}"}
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Window
    server_version, sys_version = "deme", ""

    def do_GET(self) -> None:
        """The page, and what it is made of."""
        if self._refused():
            return
        if self.path in FILES:
            name, kind = FILES[self.path]
            self._send(HTTPStatus.OK, (PAGE / name).read_bytes(), f"{kind}; charset=utf-8")
        elif self.path == "/session":
            self._answer(lambda: opened(self.server.session))
        else:
            self._answer(lambda: None)

    def do_POST(self) -> None:
        """Images of a merge, or a merge that is kept."""
        if self._refused():
            return
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not length.isdigit() or int(length) > LARGEST:
            self._json(HTTPStatus.BAD_REQUEST, {"error": f"give JSON of at most {LARGEST} bytes"})
            return
        try:
            body = parse_json(self.rfile.read(int(length)).decode())
        except ValueError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": f"no valid JSON ({said(error)})"})
            return
        self._answer(lambda: self.server.posted(self.path, body))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: the terminal is for what the user has to know."""

    def _refused(self) -> bool:
        """Whether the request is a page's of another site: by another name for this machine, or from elsewhere."""
        asked, origin = urlsplit(f"//{self.headers.get('Host', '')}"), self.headers.get("Origin")
        known = not self.server.local or asked.hostname in ("localhost", self.server.server_name)
        if known and origin in (None, f"http://{asked.netloc}"):
            return False
        self._json(HTTPStatus.FORBIDDEN, {"error": "asked by a page of another site"})
        return True

    def _answer(self, make: Callable[[], dict[str, Any] | None]) -> None:
        try:
            made = make()
        except InputError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": printable(error)})
            return
        if made is None:
            self._json(HTTPStatus.NOT_FOUND, {"error": "there is nothing of this name"})
        else:
            self._json(HTTPStatus.OK, made)

    def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
