"""The client for threads."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc

from haul_client import settings
from haul_client.chunks import Window, gather
from haul_client.errors import HaulError
from haul_client.v1.access_service_pb2_grpc import AccessServiceStub
from haul_client.v1.admin_service_pb2_grpc import AdminServiceStub
from haul_client.v1.content_service_pb2 import ReadContentRequest
from haul_client.v1.content_service_pb2_grpc import ContentServiceStub
from haul_client.v1.job_pb2 import Job, JobSpec
from haul_client.v1.job_service_pb2 import SubmitJobRequest, WatchJobRequest, WatchJobResponse
from haul_client.v1.job_service_pb2_grpc import JobServiceStub
from haul_client.v1.task_pb2 import TaskSpec

DURABLE = ("task_ended", "job_changed", "job_ended")

T = TypeVar("T")


class Client:
    """A server, connected to with the first call. It may be shared by threads.

    `submit`, `feed`, `watch` and `read` go on by themselves when the connection breaks or the server restarts. `jobs`,
    `contents`, `admin` and `access` are the generated stubs, for all other calls: calls with one answer have a deadline
    without being asked to, and raise `HaulError`.

    A server that was reached once is waited for `patience` seconds when it is away, a new one 10 s at most.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:4285",
        *,
        token: str | None = None,
        tenant: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        timeout: float = 30.0,
        patience: float = 300.0,
        options: Sequence[tuple[str, int | str]] = (),
    ) -> None:
        place = settings.place(address, token=token, tenant=tenant, ca=ca, cert=cert, key=key)
        arguments = [*place.options, *options]
        if place.credentials is None:
            channel = grpc.insecure_channel(place.target, options=arguments)
        else:
            channel = grpc.secure_channel(place.target, place.credentials, options=arguments)
        self._channel = channel
        self._timeout = timeout
        self._patience = settings.Patience(patience)
        calls = grpc.intercept_channel(channel, _Calls(place.metadata, timeout))
        self.jobs = JobServiceStub(calls)
        self.contents = ContentServiceStub(calls)
        self.admin = AdminServiceStub(calls)
        self.access = AccessServiceStub(calls)

    def submit(self, job: JobSpec, *, request_id: str | None = None) -> Job:
        """Submits a job, once: however often the connection breaks. It is durable when this returns."""
        request = SubmitJobRequest(request_id=request_id or str(uuid.uuid4()), job=job)
        return self._through_cuts(lambda: self.jobs.SubmitJob(request)).job

    def feed(self, job_id: str, tasks: Iterable[TaskSpec]) -> int:
        """Adds tasks to an open job, each once, and returns how many. They are durable when this returns.

        The tasks are taken as they are sent, so there may be any number of them. To go on after this process died, feed
        all of the same tasks again: what is there already is not added twice.
        """
        count, window = 0, Window()
        for chunk in gather(job_id, tasks):
            if window.add(chunk):
                count += self._send(window)
        return count + self._send(window)

    def watch(
        self, job_id: str, *, after: int = 0, include_body: bool = False, progress: bool = False
    ) -> Iterator[WatchJobResponse]:
        """Yields each durable event of a job after the sequence `after` once and in order, to the end of the job.

        With `progress` also what comes between: snapshots (one at each connection) and progress.
        """
        retries = self._patience.retries()
        while True:
            request = WatchJobRequest(job_id=job_id, after_sequence=after, include_body=include_body)
            try:
                for message in _stream(self.jobs.WatchJob(request)):
                    retries.answered()
                    kind = message.WhichOneof("event")
                    if kind in DURABLE:
                        if message.sequence > after:
                            after = message.sequence
                            yield message
                    elif progress and kind in ("snapshot", "progress"):
                        yield message
                return
            except HaulError as error:
                time.sleep(retries.delay(error))

    def read(self, job_id: str, task: int | str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yields the content of a task, which is named by its index or its key, in pieces of at most 256 KiB."""
        retries = self._patience.retries()
        end = None if length is None else offset + length
        while end is None or offset < end:
            request = ReadContentRequest(job_id=job_id, offset=offset, length=0 if end is None else end - offset)
            if isinstance(task, int):
                request.task_index = task
            else:
                request.task_key = task
            try:
                for message in _stream(self.contents.ReadContent(request)):
                    retries.answered()
                    offset = message.offset + len(message.data)
                    if message.data:
                        yield message.data
                return
            except HaulError as error:
                time.sleep(retries.delay(error))

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, window: Window) -> int:
        """Sends what is in the window until all of it is answered; returns how many tasks that were."""
        count, retries = 0, self._patience.retries()
        while chunks := window.unanswered():
            try:
                for answer in _stream(self.jobs.AddTasks(iter(chunks), timeout=self._timeout)):
                    retries.answered()
                    count += window.answered(answer)
                window.check()
            except HaulError as error:
                time.sleep(retries.delay(error))
        return count

    def _through_cuts(self, call: Callable[[], T]) -> T:
        retries = self._patience.retries()
        while True:
            try:
                answer = call()
            except HaulError as error:
                time.sleep(retries.delay(error))
            else:
                retries.answered()
                return answer


def _stream(call: Any) -> Iterator[Any]:
    """The messages of a stream, which is ended when nobody wants more of them."""
    try:
        yield from call
    except grpc.RpcError as error:
        raise HaulError.of(error) from None
    finally:
        call.cancel()


class _Details(grpc.ClientCallDetails):
    def __init__(self, of: Any, metadata: tuple[tuple[str, str], ...], timeout: float | None) -> None:
        self.method = of.method
        self.timeout = of.timeout if of.timeout is not None else timeout
        self.metadata = (*(of.metadata or ()), *metadata)
        self.credentials = of.credentials
        self.wait_for_ready = of.wait_for_ready
        self.compression = of.compression


class _Calls(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Says with each call who calls, and gives those with one answer a deadline and their errors a type."""

    def __init__(self, metadata: tuple[tuple[str, str], ...], timeout: float) -> None:
        self._metadata = metadata
        self._timeout = timeout

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(_Details(details, self._metadata, self._timeout), request)
        error = call.exception()
        if isinstance(error, grpc.RpcError):
            raise HaulError.of(error)
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(_Details(details, self._metadata, None), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(_Details(details, self._metadata, None), requests)
