"""Errors as the default Python client sees them: each call 200 times, and each time the right code with its details.

Run by tests/clients.rs as `errors.py ADDRESS JOB`: JOB is a job that does not end.
"""

import collections
import concurrent.futures
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from haul.v1 import job_pb2, task_pb2
from haul.v1 import job_service_pb2 as pb
from haul.v1 import job_service_pb2_grpc as services

ROUNDS = 200
address, job_id = sys.argv[1:3]
channel = grpc.insecure_channel(address)
jobs = services.JobServiceStub(channel)
seen = collections.Counter()


def note(name, error):
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # The client's own timer was first and changed the message.
        status = None
    reasons = []
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reasons.append(info.reason)
    seen[name, error.code().name, ",".join(reasons)] += 1


def ends(name, call):
    try:
        call()
    except grpc.RpcError as error:
        note(name, error)
    else:
        seen[name, "OK", ""] += 1


long = "ü\n" * 4000
wrong = job_pb2.JobSpec(
    title=long, tasks=[task_pb2.TaskSpec(key=long, fetch=task_pb2.FetchSpec(url=long)) for _ in range(200)]
)
for _ in range(ROUNDS):
    ends("wrong", lambda: jobs.SubmitJob(pb.SubmitJobRequest(job=wrong)))
    ends("key", lambda: jobs.GetTask(pb.GetTaskRequest(job_id=job_id, task_key="k" * 4000)))
    ends("method", lambda: channel.unary_unary("/haul.v1.JobService/Nope")(b""))
huge = pb.SubmitJobRequest(job=job_pb2.JobSpec(title="x" * (17 << 20)))
for _ in range(3):
    ends("huge", lambda: jobs.SubmitJob(huge))


def deadlines(_):
    ends("deadline", lambda: jobs.WaitJob(pb.WaitJobRequest(job_id=job_id), timeout=0.1))
    ends("stream", lambda: list(jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=0.1)))


with concurrent.futures.ThreadPoolExecutor(8) as threads:
    list(threads.map(deadlines, range(ROUNDS)))

for key, count in sorted(seen.items()):
    print(count, *key)
expected = {
    "wrong": ("INVALID_ARGUMENT", ["INVALID_ARGUMENT"]),
    "key": ("NOT_FOUND", ["TASK_NOT_FOUND"]),
    "method": ("UNIMPLEMENTED", ["UNIMPLEMENTED"]),
    "huge": ("RESOURCE_EXHAUSTED", ["MESSAGE_TOO_LARGE"]),
    # Without details where the client's own timer was first.
    "deadline": ("DEADLINE_EXCEEDED", ["DEADLINE_EXCEEDED", ""]),
    "stream": ("DEADLINE_EXCEEDED", ["DEADLINE_EXCEEDED", ""]),
}
for name, code, reason in seen:
    right, reasons = expected[name]
    assert code == right and reason in reasons, (name, code, reason)
assert {name for name, _, _ in seen} == set(expected)
