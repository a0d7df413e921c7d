"""Whose page may ask: the server answers to names of its own, and to pages of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers

PORTS = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this machine's own, which no other can reach.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0:0:0:0:0:0:0:1", "0.0.0.0", "example.com")]
    [True, True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def foreign(headers: Headers, hosts: Collection[str]) -> tuple[int, str] | None:
    """Return status and reason if a request is for another name, or comes from another site's page; else None.

    `hosts` are names the server answers to beside those of loopback, or `*` for any. A page elsewhere could lead its
    visitors' browsers to a server that only they can reach, by a name of its own or by sending a form.
    """
    named = headers.getlist("host")
    host = _split(f"//{named[0]}") if len(named) == 1 else None
    if host is None:
        return 400, "the request names no host, or not a valid one"
    name = host.hostname or ""
    if "*" not in hosts and not is_loopback(name) and name not in hosts:
        return 400, f"this server does not answer to the host {name[:100]!r}"
    for text in headers.getlist("origin"):
        origin = _split(text)
        if origin is None or origin.scheme not in PORTS or _place(origin, origin.scheme) != _place(host, origin.scheme):
            return 403, "the page of another site asked: this server answers to pages of its own"
    return None


def _split(text: str) -> SplitResult | None:
    try:
        found = urlsplit(text)
        _ = found.port
    except ValueError:
        return None
    return found if found.hostname and "@" not in found.netloc else None


def _place(url: SplitResult, scheme: str) -> tuple[str | None, int]:
    return url.hostname, url.port or PORTS[scheme]
