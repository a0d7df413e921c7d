"""The server's socket and its life: where it listens, by which names, and for how long."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from continual.errors import InputError
from continual.serving.answering import ServingOptions
from continual.serving.app import make_app
from continual.serving.connections import Doors, Guarded
from continual.serving.model import ModelInUse
from continual.serving.origins import is_loopback

#: files that may be open beside the connections
OTHERS = 200


def names(host: str, *more: str) -> tuple[str, ...]:
    """Return by what names beside loopback's a server at `host` may be called: `more`, or else any, except on loopback.

    >>> names("127.0.0.1"), names("::1"), names("0.0.0.0"), names("127.0.0.1", "Parts.example.com")
    ((), (), ('*',), ('parts.example.com',))
    """
    return tuple(name.lower() for name in more) or (() if is_loopback(host) else ("*",))


@contextmanager
def listening(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Listen at an address, at any free port if it is 0; raises InputError where that cannot be done."""
    host = host.removeprefix("[").removesuffix("]")
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


def config(model: ModelInUse, options: ServingOptions) -> uvicorn.Config:
    """Return what uvicorn needs to know to serve a model within the limits that are asked for."""
    doors = Doors(options.head_timeout, options.timeout + 10, options.per_address, options.connections)
    return uvicorn.Config(
        make_app(model, options),
        http=type("Guarded", (Guarded,), {"doors": doors}),
        ws="none",
        log_level="error",  # a warning for every malformed request would let strangers fill the log
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(options.timeout) or 1,
        timeout_graceful_shutdown=int(options.timeout) + 1,
    )


def run(model: ModelInUse, options: ServingOptions, sockets: Sequence[socket.socket]) -> None:
    """Answer until the process is interrupted or terminated; requests that have begun are answered first."""
    _allow_files(2 * options.connections + OTHERS)
    uvicorn.Server(config(model, options)).run(list(sockets))


def _allow_files(count: int) -> None:
    """Let the process open so many files, if it may: every connection is one."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
