"""How a server is reached and how long it is waited for: what both clients share."""

from __future__ import annotations

import ipaddress
import random
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from haul_client.errors import HaulError

# How long a server that has never answered is waited for: more likely than its restart is a wrong address.
FIRST_PATIENCE = 10.0
# The wait before the first try after a cut, which doubles with each further one, and its bound.
FIRST_BACKOFF = 0.1
MAX_BACKOFF = 10.0
# The wait has reached its bound long before it has doubled so often; a power of more tries would be no number any more.
MAX_DOUBLINGS = 10
# A server that is silent for the first while a call is open is asked, and given up after the second: it may be gone without
# a word, and a watch would wait for ever. A connection that broke is made again soon.
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", 64 << 20),
)


@dataclass(frozen=True)
class Place:
    """Where a server is, and what each call says about who calls."""

    target: str
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, int | str], ...]


def place(
    address: str,
    *,
    token: str | None,
    tenant: str | None,
    ca: str | Path | None,
    cert: str | Path | None,
    key: str | Path | None,
) -> Place:
    """Reads an address: `host:port`, `http://host:port`, `https://host:port` or `unix:/path`."""
    if address.startswith("unix:"):
        target, is_secure, is_near = address, False, True
    else:
        url = urlsplit(address if "://" in address else f"http://{address}")
        if url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/"):
            raise ValueError(f"{address!r} is not the address of a server; write it like '127.0.0.1:4285'")
        is_secure = url.scheme == "https"
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        target, is_near = f"{host}:{url.port or 4285}", _is_loopback(url.hostname)
    if not is_secure and (ca or cert or key):
        raise ValueError(f"certificates need TLS, and {address!r} does not begin with 'https://'")
    if bool(cert) != bool(key):
        raise ValueError("cert and key go together; give both or neither")
    if token is not None and not is_secure and not is_near:
        raise ValueError(f"a token must not go to {address!r} without TLS, since whoever is on the way could read it")
    metadata = []
    if token is not None:
        metadata.append(("authorization", f"Bearer {token.strip()}"))
    if tenant is not None:
        metadata.append(("haul-tenant", tenant))
    # gRPC names a socket by its path, which is no name of a host.
    named = (("grpc.default_authority", "localhost"),) if address.startswith("unix:") else ()
    credentials = _credentials(ca, cert, key) if is_secure else None
    return Place(target, credentials, tuple(metadata), (*OPTIONS, *named))


def _credentials(ca: str | Path | None, cert: str | Path | None, key: str | Path | None) -> grpc.ChannelCredentials:
    def read(path: str | Path | None) -> bytes | None:
        return Path(path).read_bytes() if path else None

    return grpc.ssl_channel_credentials(
        root_certificates=read(ca), private_key=read(key), certificate_chain=read(cert)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Patience:
    """How long a server that is away is waited for, over all calls of a client."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.was_reached = False

    def reached(self) -> None:
        self.was_reached = True

    def retries(self) -> Retries:
        return Retries(self)


class Retries:
    """The tries of one call, or of one stream that goes on over many calls."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._tries = 0
        self._since = 0.0

    def answered(self) -> None:
        """The server has said something: the next cut is the first one again."""
        self._tries = 0
        self._patience.reached()

    def delay(self, error: HaulError) -> float:
        """Returns the seconds to wait before the next try; raises the error where there is none."""
        if error.reason:
            self._patience.reached()
        now = time.monotonic()
        if self._tries == 0:
            self._since = now
        seconds = self._patience.seconds if self._patience.was_reached else min(FIRST_PATIENCE, self._patience.seconds)
        if not error.is_cut or now - self._since > seconds:
            raise error
        backoff = min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self._tries, MAX_DOUBLINGS))
        self._tries += 1
        # Clients that lost one server at once come back one after the other.
        return max(error.retry_delay or 0.0, backoff) * random.uniform(0.75, 1.25)
