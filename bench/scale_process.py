"""The processes of the scale study: real workers on the twin of a cloud, and the real API. Started by scale.py."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from large_deployment import make_driver, make_settings, make_stories_of
from sharewright import logging
from sharewright.api.app import create_app
from sharewright.api.server import Server
from sharewright.operations.worker import Worker
from sharewright.store.database import Store
from twin_cloud import TwinCloud


def run_worker(arguments: argparse.Namespace) -> None:
    """Say "ready", wait for a line, work until SIGTERM."""
    store = Store(arguments.url)
    driver = make_driver(store, arguments.key_file, TwinCloud("scale"), arguments.guest_seconds)
    worker = Worker(store, make_stories_of(store, driver), make_settings())
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print("ready", flush=True)
    sys.stdin.readline()
    with worker:
        ended.wait()
    store.close()


def run_api(arguments: argparse.Namespace) -> None:
    """Say the port, answer until SIGTERM."""
    store = Store(arguments.url)
    settings = make_settings(arguments.project)
    server = Server(create_app(store, settings), settings, port=0)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(server.address[1], flush=True)
    server.run()
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["worker", "api"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--guest-seconds", type=float, default=0.0)
    parser.add_argument("--project", default="project-00000")
    arguments = parser.parse_args()
    logging.configure(form="text", level="error")
    (run_worker if arguments.role == "worker" else run_api)(arguments)


if __name__ == "__main__":
    main()
