"""What a process counts and times about itself, as Prometheus instruments. docs/metrics.md lists them all.

Labels are of a bounded set: names of code (routes, kinds of operations, calls, classes of errors), never ids or what a
user sends. What the database holds, per share and server, is in metrics/deployment.py instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# They double the series and tell nothing that the process's start does not.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

SECONDS_OF_REQUESTS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
SECONDS_OF_CALLS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0)
SECONDS_OF_WORK: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0)

http_requests: Final = Counter(
    "sharewright_http_requests",
    "Requests answered by the API; route is the template of the URL, 'none' where nothing is",
    ("method", "route", "status"),
    registry=REGISTRY,
)
http_request_duration: Final = Histogram(
    "sharewright_http_request_duration_seconds",
    "Time from the head of a request until its answer is made",
    ("method", "route"),
    buckets=SECONDS_OF_REQUESTS,
    registry=REGISTRY,
)
operation_claims: Final = Counter(
    "sharewright_operation_claims", "Operations that this worker took from the queue", ("kind",), registry=REGISTRY
)
operations_running: Final = Gauge(
    "sharewright_operations_running", "Operations that this worker is at now", ("kind",), registry=REGISTRY
)
operation_attempt_duration: Final = Histogram(
    "sharewright_operation_attempt_duration_seconds",
    "Time of one attempt; outcome: succeeded, failed, queued (parked), handed back, lost (the lease)",
    ("kind", "outcome"),
    buckets=SECONDS_OF_WORK,
    registry=REGISTRY,
)
operation_wait: Final = Histogram(
    "sharewright_operation_wait_seconds",
    "Time from the request for an operation until a worker first took it",
    ("kind",),
    buckets=(0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0),
    registry=REGISTRY,
)
operation_duration: Final = Histogram(
    "sharewright_operation_duration_seconds",
    "Time from the request for an operation until its end, all waiting included; outcome: succeeded, failed",
    ("kind", "outcome"),
    buckets=SECONDS_OF_WORK,
    registry=REGISTRY,
)
operation_failures: Final = Counter(
    "sharewright_operation_failures",
    "Operations that failed for good, by the class of the reason",
    ("kind", "error"),
    registry=REGISTRY,
)
maintenance_duration: Final = Histogram(
    "sharewright_maintenance_duration_seconds",
    "Time of one round of a task of maintenance (report, reconcile, sweep, tidy, purge)",
    ("task",),
    buckets=SECONDS_OF_WORK,
    registry=REGISTRY,
)
maintenance_failures: Final = Counter(
    "sharewright_maintenance_failures", "Rounds of maintenance that failed", ("task",), registry=REGISTRY
)
cloud_call_duration: Final = Histogram(
    "sharewright_cloud_call_duration_seconds",
    "Time of one call of a cloud's contract, waiting included",
    ("cloud", "part", "call"),
    buckets=SECONDS_OF_CALLS,
    registry=REGISTRY,
)
cloud_call_errors: Final = Counter(
    "sharewright_cloud_call_errors",
    "Calls of a cloud's contract that ended with an error, by its class",
    ("cloud", "part", "call", "error"),
    registry=REGISTRY,
)
cloud_requests: Final = Counter(
    "sharewright_cloud_requests", "HTTP requests to OpenStack, repeated ones included", registry=REGISTRY
)
guest_call_duration: Final = Histogram(
    "sharewright_guest_call_duration_seconds",
    "Time of one call into a service VM: ready (until it answers), apply, observe, flush, freeze",
    ("call",),
    buckets=SECONDS_OF_CALLS,
    registry=REGISTRY,
)
guest_call_errors: Final = Counter(
    "sharewright_guest_call_errors",
    "Calls into service VMs that ended with an error, by its class",
    ("call", "error"),
    registry=REGISTRY,
)
guest_phases: Final = Counter(
    "sharewright_guest_phase_seconds",
    "Time that changes took inside of service VMs, by what it went into; 'total' holds all others",
    ("phase",),
    registry=REGISTRY,
)
guest_handshakes: Final = Counter(
    "sharewright_guest_handshakes",
    "Greetings and upgrades that new connections to service VMs took",
    registry=REGISTRY,
)
database_statements: Final = Counter(
    "sharewright_database_statements", "SQL statements sent by this process", registry=REGISTRY
)


@contextmanager
def measured(duration: Histogram, errors: Counter, *labels: str) -> Iterator[None]:
    """Time the block under these labels, and count what it raises under them and the error's class."""
    started = time.perf_counter()
    try:
        yield
    except Exception as error:
        errors.labels(*labels, type(error).__name__).inc()
        raise
    finally:
        duration.labels(*labels).observe(time.perf_counter() - started)
