"""What the Python client does while its server is killed, by threads and by asyncio.

Run by tests/clients.rs as `tour.py sync|async ADDRESS ORIGIN COUNT`. It says where it is on stdout; `kill` asks for the
server to be killed and started again, and it goes on at once.
"""

import asyncio
import sys

import grpc
from haul_client import Client, FetchSpec, GroupMode, GroupPolicy, HaulError, JobSpec, TaskSpec, aio
from haul_client.v1.job_service_pb2 import CancelJobRequest, GetJobRequest, PauseJobRequest, SealJobRequest

kind, address, origin, count = *sys.argv[1:4], int(sys.argv[4])
KILL_AT = (count // 3, count // 3 * 2)


def tell(*words):
    print(*words, flush=True)


def kill():
    """Has the server killed while this goes on."""
    tell("kill")


def tasks():
    """More than is held in memory at once, and a kill in their midst."""
    for number in range(count):
        if number in KILL_AT:
            kill()
        yield TaskSpec(key=f"task {number}", fetch=FetchSpec(url=f"{origin}/many?n={number}"))


def slow(title):
    collect = GroupPolicy(mode=GroupMode.GROUP_MODE_COLLECT)
    work = [TaskSpec(key=key, fetch=FetchSpec(url=f"{origin}/{key}")) for key in ("quick", "slow", "missing")]
    return JobSpec(title=title, group=collect, tasks=work)


def check_events(events):
    sequences = [event.sequence for event in events]
    assert sequences == list(range(1, len(sequences) + 1)), sequences
    ended = [event.task_ended.task_index for event in events if event.HasField("task_ended")]
    assert sorted(ended) == [0, 1, 2], ended
    assert events[-1].HasField("job_ended")
    tell("watched", len(events))


def check_refusals(call):
    """What is wrong is an error with all that the server says."""
    wrong = JobSpec(tasks=[TaskSpec(fetch=FetchSpec(url="example.com")), TaskSpec(key="k")])
    error = call("submit", wrong)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"), error
    fields = [violation.field for violation in error.violations]
    assert fields[0] == "job.tasks[0].fetch.url" and len(fields) == 2, fields
    assert all(violation.description for violation in error.violations)
    error = call("GetJob", GetJobRequest(job_id="01900000-0000-7000-8000-000000000000"))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND"), error
    assert error.retry_delay is None and "JOB_NOT_FOUND" in str(error)
    tell("refused")


def by_threads():
    with Client(address) as client:
        job = client.submit(slow("watched"), request_id="tour")
        assert client.submit(slow("watched"), request_id="tour").job_id == job.job_id
        events = []
        for event in client.watch(job.job_id):
            events.append(event)
            if len(events) == 2:
                kill()
        check_events(events)
        assert b"".join(client.read(job.job_id, "quick")) == b"quick"
        assert b"".join(client.read(job.job_id, 0, offset=1, length=3)) == b"uic"

        job = client.submit(JobSpec(title="fed", open=True))
        client.jobs.PauseJob(PauseJobRequest(job_id=job.job_id))
        assert client.feed(job.job_id, tasks()) == count
        # As after the death of this process.
        few = (task for task, _ in zip(tasks(), range(count // 4)))
        assert client.feed(job.job_id, few) == count // 4
        job = client.jobs.SealJob(SealJobRequest(job_id=job.job_id)).job
        tell("fed", job.counts.total)
        client.jobs.CancelJob(CancelJobRequest(job_id=job.job_id), timeout=120)

        def call(name, request):
            try:
                client.submit(request) if name == "submit" else getattr(client.jobs, name)(request)
            except HaulError as error:
                return error
            raise AssertionError(f"{name} is not refused")

        check_refusals(call)


async def by_asyncio():
    async with aio.Client(address) as client:
        job = await client.submit(slow("watched"), request_id="tour")
        assert (await client.submit(slow("watched"), request_id="tour")).job_id == job.job_id
        events = []
        async for event in client.watch(job.job_id):
            events.append(event)
            if len(events) == 2:
                kill()
        check_events(events)
        assert b"".join([piece async for piece in client.read(job.job_id, "quick")]) == b"quick"
        assert b"".join([piece async for piece in client.read(job.job_id, 0, offset=1, length=3)]) == b"uic"

        job = await client.submit(JobSpec(title="fed", open=True))
        await client.jobs.PauseJob(PauseJobRequest(job_id=job.job_id))
        assert await client.feed(job.job_id, tasks()) == count
        few = (task for task, _ in zip(tasks(), range(count // 4)))
        assert await client.feed(job.job_id, few) == count // 4
        job = (await client.jobs.SealJob(SealJobRequest(job_id=job.job_id))).job
        tell("fed", job.counts.total)
        await client.jobs.CancelJob(CancelJobRequest(job_id=job.job_id), timeout=120)

        refused = []
        for call in (
            client.submit(JobSpec(tasks=[TaskSpec(fetch=FetchSpec(url="example.com")), TaskSpec(key="k")])),
            client.jobs.GetJob(GetJobRequest(job_id="01900000-0000-7000-8000-000000000000")),
        ):
            try:
                await call
            except HaulError as error:
                refused.append(error)
        check_refusals(lambda *_: refused.pop(0))


if kind == "sync":
    by_threads()
else:
    asyncio.run(by_asyncio())
