"""The machine: files by whole-file rename, and commands without a shell. Tests point it at a scratch root."""

from __future__ import annotations

import os
import time

from .memory import Memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

STATE = "/var/lib/sharewright"  # survives a reboot
RUN = "/run/sharewright"  # does not
SHARES = "/shares"
MOVES = f"{RUN}/moves"  # shares that move to another disk (moving.py); gone with a reboot
PROGRAM = "/usr/lib/sharewright/sharewright-guest"
AT_ONCE = 32  # commands that run at the same time, of many


class Refusal(Exception):
    """The call as a whole is refused; ``kind`` is one of guest/document.py's."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        self.kind = kind
        self.message = message
        self.hint = hint
        super().__init__(message)


class CommandFailed(Exception):
    """A command could not be run, took too long, or exited with another status than zero."""


class NotBegun(CommandFailed):
    """It was not run at all."""


class Completed:
    """What a command left behind. ``status`` is its exit status."""

    __slots__ = ("errors", "name", "output", "status")

    def __init__(self, name: str, status: int, output: str, errors: str) -> None:
        self.name = name
        self.status = status
        self.output = output
        self.errors = errors

    def check(self) -> Completed:
        """Itself, or CommandFailed with what the command said."""
        if self.status != 0:
            said = " ".join((self.errors or self.output).split())[-400:]
            raise CommandFailed(f"{self.name} exited with status {self.status}: {said}")
        return self


class Host:
    """All that the program touches outside itself. ``root`` is "" in a VM, a scratch directory in tests; commands
    below ``<root>/usr/sbin`` come first there."""

    def __init__(self, root: str = "") -> None:
        self.root = root.rstrip("/")
        self.memory = Memory()

    def at(self, path: str) -> str:
        """Where an absolute path really is."""
        return self.root + path

    def bare(self, path: str) -> str:
        """The inverse of :meth:`at`."""
        return path[len(self.root) :] if self.root and path.startswith(self.root + "/") else path

    # Files.

    def read(self, path: str) -> str:
        """A text file's content; "" when it cannot be read."""
        return self.read_bytes(path).decode(errors="replace")

    def read_bytes(self, path: str) -> bytes:
        try:
            with open(self.at(path), "rb") as file:
                return file.read()
        except OSError:
            return b""

    def listing(self, path: str) -> list[str]:
        """Sorted names in a directory; empty when there is none."""
        try:
            return sorted(os.listdir(self.at(path)))
        except OSError:
            return []

    def entries(self, path: str) -> dict[str, int]:
        """Names in a directory, sorted, each with its entry's own inode (a link's, not its target's); empty when there
        is none."""
        try:
            with os.scandir(self.at(path)) as found:
                return dict(sorted((entry.name, entry.inode()) for entry in found))
        except OSError:
            return {}

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.at(path))

    def replace(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write the whole file beside the old one, sync it, rename it over; the old or the new is always there."""
        target = self.at(path)
        directory = os.path.dirname(target)
        os.makedirs(directory, mode=0o755, exist_ok=True)
        beside = f"{directory}/.{os.path.basename(target)}.{os.getpid()}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(beside, target)
        except BaseException:
            self.remove(self.bare(beside))
            raise
        self.sync_directory(directory)

    def sync_directory(self, directory: str) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def poke(self, path: str, data: str) -> bool:
        """Write into a kernel file (/proc, /sys); whether the kernel took it."""
        try:
            descriptor = os.open(self.at(path), os.O_WRONLY)
            try:
                os.write(descriptor, data.encode())
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return True

    def remove(self, path: str) -> None:
        """Remove a file; it need not be there."""
        try:
            os.unlink(self.at(path))
        except FileNotFoundError:
            return

    # Commands.

    def run(self, *arguments: str, data: str = "", timeout: float = 30.0) -> Completed:
        """Run a command with ``data`` on its standard input. CommandFailed when it cannot be started or does not end
        within ``timeout`` seconds; its exit status is the caller's to judge."""
        (result,) = self.run_each([arguments], data=data, timeout=timeout)
        if isinstance(result, CommandFailed):
            raise result
        return result

    def run_each(
        self, commands: Sequence[Sequence[str]], *, data: str = "", timeout: float = 30.0
    ) -> list[Completed | CommandFailed]:
        """Run commands at the same time, AT_ONCE of them, all within ``timeout`` seconds; how each ended, as
        :meth:`run` would say it. For commands that write little: what one says is read when those before it have
        ended."""
        end = time.monotonic() + timeout
        results: list[Completed | CommandFailed] = []
        for first in range(0, len(commands), AT_ONCE):
            some = commands[first : first + AT_ONCE]
            if first and time.monotonic() >= end:
                results += [NotBegun(f"{each[0]} was not begun within {timeout:g} s") for each in some]
                continue
            begun = [self._begin(each) for each in some]
            results += [self._end(each, data, end, timeout) for each in begun]
        return results

    def _begin(self, arguments: Sequence[str]) -> subprocess.Popen[bytes] | CommandFailed:
        import subprocess  # imported late: "hello" needs no command, and the import is the dearest of all

        search = "/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"LC_ALL": "C", "PATH": search}
        if self.root:
            environment["PATH"] = f"{self.root}/usr/sbin:{search}"
            environment["SHAREWRIGHT_GUEST_ROOT"] = self.root
        try:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            return NotBegun(f"{arguments[0]} cannot be run: {error.strerror}")

    def _end(
        self, process: subprocess.Popen[bytes] | CommandFailed, data: str, end: float, timeout: float
    ) -> Completed | CommandFailed:
        import signal
        import subprocess

        if isinstance(process, CommandFailed):
            return process
        name = str(process.args[0])  # type: ignore[index]
        try:
            output, errors = process.communicate(data.encode(), timeout=max(end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                process.communicate(timeout=1.0)
            except subprocess.TimeoutExpired:
                pass  # asleep in the kernel; nobody can end it, and waiting for it would take the server with it
            return CommandFailed(f"{name} did not end within {timeout:g} s")
        return Completed(name, process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))

    def start(self, *arguments: str) -> None:
        """Start a process of its own, which outlives this one. OSError when it cannot be started."""
        import subprocess

        environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        if self.root:
            environment["PATH"] = f"{self.root}/usr/sbin:{environment['PATH']}"
            environment["SHAREWRIGHT_GUEST_ROOT"] = self.root
        nothing = subprocess.DEVNULL
        subprocess.Popen(
            arguments, stdin=nothing, stdout=nothing, stderr=nothing, env=environment, start_new_session=True, cwd="/"
        )

    def lock(self, name: str, *, timeout: float) -> int:
        """Take a lock that dies with this process; returns its descriptor. Refusal when another holds it too long."""
        import fcntl

        os.makedirs(self.at(RUN), mode=0o755, exist_ok=True)
        descriptor = os.open(self.at(f"{RUN}/{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in polls(timeout, 0.05):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            return descriptor
        os.close(descriptor)
        raise Refusal("failed", "Another apply is running on this server.", "Call again when it has ended.")


def polls(seconds: float, pause: float) -> Iterator[float]:
    """Yield the seconds left: at once, then after every pause, and a last time when the time is over."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        yield max(left, 0.0)
        if left <= 0:
            return
        time.sleep(min(pause, left))
