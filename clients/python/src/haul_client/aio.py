"""The client for asyncio; `haul_client.Client` is the one for threads."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from haul_client import settings
from haul_client.chunks import Chunker, Window
from haul_client.errors import HaulError
from haul_client.sync import DURABLE
from haul_client.v1.access_service_pb2_grpc import AccessServiceStub
from haul_client.v1.admin_service_pb2_grpc import AdminServiceStub
from haul_client.v1.content_service_pb2 import ReadContentRequest
from haul_client.v1.content_service_pb2_grpc import ContentServiceStub
from haul_client.v1.job_pb2 import Job, JobSpec
from haul_client.v1.job_service_pb2 import SubmitJobRequest, WatchJobRequest, WatchJobResponse
from haul_client.v1.job_service_pb2_grpc import JobServiceStub
from haul_client.v1.task_pb2 import TaskSpec

__all__ = ["Client"]

class Client:
    """A server, connected to with the first call; as `haul_client.Client`, with `await` and `async for`."""

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
        calls: list[grpc.aio.ClientInterceptor] = [
            _Unary(place.metadata, timeout),
            _Answers(place.metadata),
            _Streams(place.metadata),
        ]
        if place.credentials is None:
            channel = grpc.aio.insecure_channel(place.target, options=arguments, interceptors=calls)
        else:
            channel = grpc.aio.secure_channel(place.target, place.credentials, options=arguments, interceptors=calls)
        self._channel = channel
        self._timeout = timeout
        self._patience = settings.Patience(patience)
        self.jobs = JobServiceStub(channel)
        self.contents = ContentServiceStub(channel)
        self.admin = AdminServiceStub(channel)
        self.access = AccessServiceStub(channel)

    async def submit(self, job: JobSpec, *, request_id: str | None = None) -> Job:
        """Submits a job, once: however often the connection breaks. It is durable when this returns."""
        request = SubmitJobRequest(request_id=request_id or str(uuid.uuid4()), job=job)
        retries = self._patience.retries()
        while True:
            try:
                answer = await self.jobs.SubmitJob(request)
            except HaulError as error:
                await asyncio.sleep(retries.delay(error))
            else:
                retries.answered()
                return answer.job

    async def feed(self, job_id: str, tasks: Iterable[TaskSpec] | AsyncIterable[TaskSpec]) -> int:
        """Adds tasks to an open job, each once, and returns how many. They are durable when this returns.

        The tasks are taken as they are sent, so there may be any number of them. To go on after this process died, feed
        all of the same tasks again: what is there already is not added twice.
        """
        count, window, chunker = 0, Window(), Chunker(job_id)
        async for task in _each(tasks):
            for chunk in chunker.push(task):
                if window.add(chunk):
                    count += await self._send(window)
        for chunk in chunker.close():
            window.add(chunk)
        return count + await self._send(window)

    async def watch(
        self, job_id: str, *, after: int = 0, include_body: bool = False, progress: bool = False
    ) -> AsyncIterator[WatchJobResponse]:
        """Yields each durable event of a job after the sequence `after` once and in order, to the end of the job.

        With `progress` also what comes between: snapshots (one at each connection) and progress.
        """
        retries = self._patience.retries()
        while True:
            request = WatchJobRequest(job_id=job_id, after_sequence=after, include_body=include_body)
            try:
                async with aclosing(_stream(self.jobs.WatchJob(request))) as messages:
                    async for message in messages:
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
                await asyncio.sleep(retries.delay(error))

    async def read(
        self, job_id: str, task: int | str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
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
                async with aclosing(_stream(self.contents.ReadContent(request))) as messages:
                    async for message in messages:
                        retries.answered()
                        offset = message.offset + len(message.data)
                        if message.data:
                            yield message.data
                return
            except HaulError as error:
                await asyncio.sleep(retries.delay(error))

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, window: Window) -> int:
        """Sends what is in the window until all of it is answered; returns how many tasks that were."""
        count, retries = 0, self._patience.retries()
        while chunks := window.unanswered():
            try:
                async for answer in _stream(self.jobs.AddTasks(iter(chunks), timeout=self._timeout)):
                    retries.answered()
                    count += window.answered(answer)
                window.check()
            except HaulError as error:
                await asyncio.sleep(retries.delay(error))
        return count


async def _each(tasks: Iterable[TaskSpec] | AsyncIterable[TaskSpec]) -> AsyncIterator[TaskSpec]:
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task


async def _stream(call: Any) -> AsyncGenerator[Any, None]:
    """The messages of a stream, which is ended when nobody wants more of them."""
    try:
        async for message in call:
            yield message
    except grpc.RpcError as error:
        raise HaulError.of(error) from None
    finally:
        call.cancel()


class _Who:
    """Says with each call who calls."""

    def __init__(self, metadata: tuple[tuple[str, str], ...], timeout: float | None = None) -> None:
        self._metadata = metadata
        self._timeout = timeout

    def details(self, of: Any) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(of.metadata or ()), *self._metadata)
        timeout = of.timeout if of.timeout is not None else self._timeout
        return grpc.aio.ClientCallDetails(of.method, timeout, metadata, of.credentials, of.wait_for_ready)


class _Unary(_Who, grpc.aio.UnaryUnaryClientInterceptor):
    """Gives calls with one answer a deadline and their errors a type."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        try:
            return await (await continuation(self.details(details), request))
        except grpc.RpcError as error:
            raise HaulError.of(error) from None


class _Answers(_Who, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self.details(details), request)


class _Streams(_Who, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(self.details(details), requests)
