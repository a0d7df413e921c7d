"""The server's socket and its life: where it listens, by which names, and for how long."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from continual.errors import InputError
from continual.serving.app import ServingOptions, make_app
from continual.serving.model import ModelInUse

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def names(host: str) -> tuple[str, ...]:
    """Return the names by which a server that listens at `host` may be called: its own alone, if that is loopback."""
    return ("127.0.0.1", "localhost", "[", "::1") if host in LOOPBACK else ("*",)


@contextmanager
def listening(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Listen at an address, at any free port if it is 0; raises InputError where that cannot be done."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}, port {port} ({error.strerror}): choose another --port or --host"
        ) from None
    with opened:
        yield [opened]


def address(sockets: Sequence[socket.socket]) -> str:
    """Return host and port as they are written in a URL."""
    host, port, *_ = sockets[0].getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run(model: ModelInUse, options: ServingOptions, sockets: Sequence[socket.socket]) -> None:
    """Answer until the process is interrupted or terminated; requests that have begun are answered first."""
    config = uvicorn.Config(
        make_app(model, options),
        log_level="warning",
        server_header=False,
        limit_concurrency=1024,
        timeout_keep_alive=int(options.timeout),
        timeout_graceful_shutdown=int(options.timeout) + 1,
    )
    uvicorn.Server(config).run(list(sockets))
