"""Client of haul, the server for durable fetch and download jobs.

`Client` is for threads, `haul_client.aio.Client` for asyncio. The messages are in `haul_client.v1`; those that callers make
most often are here, too.
"""

from haul_client.errors import HaulError, Violation
from haul_client.sync import Client
from haul_client.v1.job_pb2 import GroupMode, GroupPolicy, Job, JobSpec, JobState
from haul_client.v1.task_pb2 import DownloadSpec, FetchSpec, Task, TaskSpec, TaskState

__all__ = [
    "Client",
    "DownloadSpec",
    "FetchSpec",
    "GroupMode",
    "GroupPolicy",
    "HaulError",
    "Job",
    "JobSpec",
    "JobState",
    "Task",
    "TaskSpec",
    "TaskState",
    "Violation",
]
