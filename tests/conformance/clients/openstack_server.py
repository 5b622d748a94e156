"""The stock ``openstack`` command for suites that call it thousands of times: loaded once, a child process per command.

usage: openstack_server.py DIRECTORY

Makes DIRECTORY/openstack, which hands its arguments, environment and output to this process; that forks, and the child
is the client's own entry point. Loading it anew would take a second of a processor each time. Runs in the environment
of requirements.txt until it is ended.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import warnings
from pathlib import Path

LOADED = ("openstackclient.shell", "openstack.connection", "manilaclient.osc.plugin", "manilaclient.v2.client")
COMMAND = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    socket.send_fds(server, [json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()], [1, 2])
    server.shutdown(socket.SHUT_WR)
    answer = server.recv(16)
sys.exit(int(answer) if answer else "the command ended without an answer")
"""


def main() -> None:
    directory = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    for name in LOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    path = str(directory / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        command = directory / "openstack"
        command.write_text(COMMAND.format(python=sys.executable, path=path))
        command.chmod(0o755)
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Be the command that is asked for. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 2)
    while part := connection.recv(1 << 16):
        message += part
    arguments, environment, directory = json.loads(message)
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["openstack", *arguments]
    from openstackclient import shell

    try:
        code = shell.main(arguments)
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(int(code or 0)).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
