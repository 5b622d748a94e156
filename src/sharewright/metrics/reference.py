"""docs/metrics.md, made from the instruments and families themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from sharewright import instruments
from sharewright.metrics.deployment import FAMILIES

PAGE = """\
# Metrics

This page is generated: `sharewright config metrics > docs/metrics.md`.

Sharewright tells Prometheus what it does and how the shares and their servers are. The metrics have an address of
their own (`metrics.listen`, loopback by default), which the API's users cannot reach, because they are about all
tenants. Nobody is asked for a password there. They are off until a port is set: `metrics.port` in the configuration, or
`--metrics-port` of `sharewright serve`, `api` and `worker`, since every process on a host needs a port of its own.
With `api.processes`, `serve` has its worker's there, and those of the API's processes on the ports that follow.

| path | tells | scrape it from |
|---|---|---|
| `/metrics` | what this process did | every process |
| `/deployment` | what the database says about all shares, servers, work | any process: all give the same answer |

[deploy/prometheus/](../deploy/prometheus) has a scrape configuration and alert rules to begin with. Sizes are in bytes,
times in seconds. Counters begin at 0 with their process.

`/deployment` costs a handful of SQL statements per scrape; with many shares, scrape it once a minute. It has one series
of each detailed metric for each share or share server, so their number is that of the shares: 10,000 shares are
{series} series when all are served by SMB, a tenth less by NFS, and 1,000 servers 22,000 more (44,000 where all run
Samba); such a scrape took 1.4 s and 61 MiB of memory for a moment (`bench/metrics.py`, NFS, a busy machine). Beyond
`metrics.most_detailed_shares` there are only sums. All other labels have few values.

What a count costs: 0.3 µs for each SQL statement, 4 to 5 µs for each request and each call of a cloud or a guest.

A share's numbers come from the looks at its server (`worker.reconcile_seconds`, `worker.looks_per_second`) and cost no
round trip of their own; `sharewright_share_server_usage_timestamp_seconds` says how old they are.

Samba counts for the whole server, not for each share (4.17, Debian 12), in every process of its own and for those that
have ended; from 0 whenever it is started, which is with the first SMB share and at every boot. It is told to count, not
to take times (`smbd profiling level = count`): in six runs of 3,000 small reads its processor time was 1.05, 1.12 and
1.19 s without, 1.01, 0.90 and 1.09 s with it, so the cost is below what can be seen.
"""

SECTIONS = """
## `/metrics`: this process

Besides these, the usual ones of a Python process (`process_*`, `python_*`).

{process}
## `/deployment`: the whole deployment

{deployment}
## `/deployment`, for each share and share server

{detailed}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def process_rows() -> Iterator[Row]:
    """Our own instruments, in the order of their declaration."""
    for instrument in vars(instruments).values():
        if isinstance(instrument, Counter | Gauge | Histogram):
            (metric,) = instrument.describe()
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield Row(name=name, kind=metric.type, labels=tuple(instrument._labelnames), text=metric.documentation)


def deployment_rows(*, detailed: bool) -> Iterator[Row]:
    for family in FAMILIES.values():
        if family.detailed == detailed:
            metric = family.empty()
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield Row(name=name, kind=metric.type, labels=family.labels, text=family.text)


def reference() -> str:
    """The whole page."""
    per_share = sum("share_id" in row.labels for row in deployment_rows(detailed=True))
    sections = SECTIONS.format(
        process=_table(process_rows()),
        deployment=_table(deployment_rows(detailed=False)),
        detailed=_table(deployment_rows(detailed=True)),
    )
    return PAGE.format(series=f"{per_share * 10_000:,}") + sections


def _table(rows: Iterator[Row]) -> str:
    lines = ["| metric | type | labels | meaning |\n|---|---|---|---|\n"]
    for row in rows:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.text} |\n")
    return "".join(lines)
