"""How many tasks become chunks that can be sent again without being stored twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import grpc

from haul_client.errors import HaulError
from haul_client.v1.job_service_pb2 import AddTasksRequest, AddTasksResponse
from haul_client.v1.task_pb2 import TaskSpec

# A chunk is closed by whichever it reaches first. The server takes 10,000 tasks and 16 MiB.
CHUNK_TASKS = 1_000
CHUNK_BYTES = 1 << 20
# The chunks of one stream; that many are held in memory until they are answered.
WINDOW = 8


class Chunker:
    """Gathers tasks into chunks. The id of a chunk is its place and its content, so the same tasks give the same chunks."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._start = 0
        self._bytes = 0
        self._tasks: list[TaskSpec] = []

    def push(self, task: TaskSpec) -> Iterator[AddTasksRequest]:
        """Takes a task; yields the chunk that has no room for it."""
        size = task.ByteSize()
        if self._tasks and (len(self._tasks) == CHUNK_TASKS or self._bytes + size > CHUNK_BYTES):
            yield from self.close()
        self._tasks.append(task)
        self._bytes += size

    def close(self) -> Iterator[AddTasksRequest]:
        """Yields what is gathered, if there is something."""
        if not self._tasks:
            return
        chunk = AddTasksRequest(job_id=self._job_id, tasks=self._tasks)
        digest = hashlib.sha256(chunk.SerializeToString(deterministic=True)).hexdigest()
        chunk.chunk_id = f"{self._start}-{digest[:32]}"
        self._start += len(self._tasks)
        self._tasks, self._bytes = [], 0
        yield chunk


class Window:
    """Chunks that are sent and not answered yet."""

    def __init__(self) -> None:
        self._chunks: dict[str, AddTasksRequest] = {}

    def add(self, chunk: AddTasksRequest) -> bool:
        """Takes a chunk; returns whether it is full."""
        self._chunks[chunk.chunk_id] = chunk
        return len(self._chunks) >= WINDOW

    def answered(self, answer: AddTasksResponse) -> int:
        """Lets go of a chunk; returns how many tasks it has."""
        chunk = self._chunks.pop(answer.chunk_id, None)
        return len(chunk.tasks) if chunk is not None else 0

    def unanswered(self) -> list[AddTasksRequest]:
        return list(self._chunks.values())

    def check(self) -> None:
        """Raises an error where a stream has ended well without all answers."""
        if self._chunks:
            raise HaulError(grpc.StatusCode.INTERNAL, "the stream ended before all chunks were answered")


def gather(job_id: str, tasks: Iterable[TaskSpec]) -> Iterator[AddTasksRequest]:
    chunker = Chunker(job_id)
    for task in tasks:
        yield from chunker.push(task)
    yield from chunker.close()
