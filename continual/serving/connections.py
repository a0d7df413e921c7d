"""The doors of the server: how many connections there may be, of whom, and how long a request may take to arrive."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass
class Doors:
    """Limits on connections, and who is connected."""

    head: float = 10.0  #: seconds until the head of a request is there
    body: float = 40.0  #: seconds until its body is there as well
    per_address: int = 32  #: connections from one address; 0 for any number
    connections: int = 512  #: connections altogether
    open: Counter[str] = field(default_factory=Counter)  #: connections by address

    def refusal(self, address: str) -> tuple[int, str] | None:
        """Return status and reason if one connection more is too much, where it is counted already."""
        if self.per_address and self.open[address] > self.per_address:
            return 429, f"there are {self.per_address} connections from your address already: close some"
        if self.open.total() > self.connections:
            return 503, f"there are {self.connections} connections already: send it again"
        return None


def network(host: str) -> str:
    """Return by what connections from a host are counted: its address, or of IPv6 the network of one customer.

    >>> network("192.0.2.1"), network("::ffff:192.0.2.1"), network("2001:db8:1:2:3:4:5:6"), network("?")
    ('192.0.2.1', '192.0.2.1', '2001:db8:1:2::/64', '?')
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class Guarded(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, for connections within the limits of `doors`."""

    doors: Doors

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; one too many is refused once its request has arrived, or soon after."""
        super().connection_made(transport)
        self._address = network(self.client[0] if self.client else "")
        self._waiting: asyncio.TimerHandle | None = None
        self._phase = ""
        self.doors.open[self._address] += 1
        self._refusal = self.doors.refusal(self._address)
        doors = self.doors
        if doors.open[self._address] > 2 * doors.per_address > 0 or doors.open.total() > 2 * doors.connections:
            transport.abort()  # a flood: no answer is worth a connection that is held
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no longer."""
        self._stop()
        self.doors.open[self._address] -= 1
        self.doors.open += Counter()  # drops those of which there are none
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, and see to it that the request comes to an end in time."""
        if self._refusal is None:
            super().data_received(data)
        elif b"\r\n\r\n" in data:
            self._answer(*self._refusal)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._answer(400, msg)

    def _watch(self) -> None:
        """Set a clock when the request's head, or its body, begins to be waited for; stop it when there is all."""
        state = self.conn.their_state
        phase = {h11.IDLE: "head", h11.SEND_BODY: "body"}.get(state, "")
        if phase == self._phase:
            return
        self._stop()
        self._phase = phase
        if phase and not self.transport.is_closing():
            seconds = min(2.0, self.doors.head) if self._refusal else getattr(self.doors, phase)
            self._waiting = self.loop.call_later(seconds, self._late)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _late(self) -> None:
        self._answer(*(self._refusal or (408, f"the request's {self._phase} did not arrive in time")))

    def _answer(self, status: int, reason: str) -> None:
        """Say why there is no answer, if nothing has been said yet, and close the connection."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": reason}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            headers += [("retry-after", "1")] if status in (429, 503) else []
            events: list[Any] = [h11.Response(status_code=status, headers=headers, reason=b""), h11.Data(data=body)]
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in [*events, h11.EndOfMessage()]))
        if self.cycle is not None:  # it has nobody left to answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
