"""What went wrong, with what the server said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True)
class Violation:
    """A field of the request that is wrong, by its path (`job.tasks[3].fetch.url`), and why."""

    field: str
    description: str


class HaulError(Exception):
    """A call that failed.

    `code` is that of gRPC. `reason` is stable and explained in docs/ERRORS.md; it is empty where no haul server answered.
    `violations` has every wrong field of an INVALID_ARGUMENT. `retry_delay` is how many seconds the server asks to wait
    before another try, where it says so.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        violations: tuple[Violation, ...] = (),
        retry_delay: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.violations = violations
        self.retry_delay = retry_delay
        self.metadata = dict(metadata or {})

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors are carried between processes, as from those of a pool; by default only the message would be.
        parts = (self.code, self.message, self.reason, self.violations, self.retry_delay, self.metadata)
        return _again, parts

    def __str__(self) -> str:
        what = f"{self.code.name} ({self.reason})" if self.reason else self.code.name
        return f"{what}: {self.message}"

    @property
    def is_cut(self) -> bool:
        """Whether the connection broke or the server is away, so that the call can be made again.

        A haul server gives a reason with each error of its own, so that one without is the connection's or a proxy's.
        """
        broken = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
        return self.code is grpc.StatusCode.UNAVAILABLE or (not self.reason and self.code in broken)

    @classmethod
    def of(cls, error: Any) -> HaulError:
        """Reads an error of gRPC, of threads (`grpc.RpcError`) or asyncio (`grpc.aio.AioRpcError`)."""
        code: grpc.StatusCode = error.code()
        found: dict[str, Any] = {}
        for detail in _details(error, code):
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                found.update(reason=info.reason, metadata=dict(info.metadata))
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                found["violations"] = tuple(Violation(it.field, it.description) for it in bad.field_violations)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                found["retry_delay"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        return cls(code, error.details() or "", **found)


def _again(
    code: grpc.StatusCode,
    message: str,
    reason: str,
    violations: tuple[Violation, ...],
    retry_delay: float | None,
    metadata: Mapping[str, str],
) -> HaulError:
    return HaulError(
        code, message, reason=reason, violations=violations, retry_delay=retry_delay, metadata=metadata
    )


def _details(error: Any, code: grpc.StatusCode) -> list[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            status = status_pb2.Status()
            try:
                status.ParseFromString(value)
            except DecodeError:
                return []
            # Where the client's own timer was first the details are those of another error.
            return list(status.details) if status.code == code.value[0] else []
    return []
