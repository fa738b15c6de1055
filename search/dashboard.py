"""Serves optuna-dashboard on the loopback interface, to requests that come from this machine's own pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from mmsa_core.errors import UserError
from search.run_folder import RunFolder
from search.storage import open_storage
from search.trials import read_study

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
LOOPBACK = r"(?:localhost|127\.0\.0\.1|\[::1\])(?::(?P<port>\d{1,5}))?"
REFUSED = b"refused: only pages of this dashboard may ask, by the name localhost or 127.0.0.1\n"


def serve(run: Path, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve a run's study until Ctrl-C; ``on_ready`` is called with the address.

    Raises:
        UserError: optuna-dashboard is not installed, there is no study, or the port is taken.
    """
    folder = RunFolder(run)
    config = folder.config()
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise UserError("dashboard: optuna-dashboard is not installed; pip install 'mmsa-search[dashboard]'") from None
    read_study(config, folder)  # else the dashboard would make what is not there
    app = loopback_only(wsgi(open_storage(config.storage, folder.path)))
    try:
        server = make_server(HOST, port, app, _Server, _Handler)
    except OSError as error:
        raise UserError(f"--port: cannot listen on {HOST}:{port} ({error.strerror}); give another port") from None
    with server, suppress(KeyboardInterrupt):
        on_ready(f"http://{HOST}:{port}/")
        server.serve_forever()


def loopback_only(app: WSGIApplication) -> WSGIApplication:
    """Return an application that refuses what another site's page asks.

    Such a page can make its own name point to 127.0.0.1 (DNS rebinding) and then read whatever answers to that name;
    and it can send a form to any address. The browser says in ``Host`` which name was asked, and in ``Origin`` whose
    page asks.
    """

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _own(environ):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", str(len(REFUSED)))])
        return [REFUSED]

    return guarded


def _own(environ: WSGIEnvironment) -> bool:
    """Tell whether a request asks for a loopback name, and no page of another host or port makes it."""
    host = re.fullmatch(LOOPBACK, environ.get("HTTP_HOST", ""), re.ASCII | re.IGNORECASE)
    if host is None or "HTTP_ORIGIN" not in environ:
        return host is not None
    origin = re.fullmatch(rf"https?://{LOOPBACK}", environ["HTTP_ORIGIN"], re.ASCII | re.IGNORECASE)
    return origin is not None and origin["port"] == host["port"]


class _Server(ThreadingMixIn, WSGIServer):
    """The standard library's server with a thread a request: a page asks for several things at once."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """The standard library's handler without a line for each request."""

    def log_message(self, *_: Any) -> None:
        return
