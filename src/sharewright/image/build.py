"""Build the service image: mmdebstrap, our changes, one disk with a boot loader, and the kernel beside it.

The result is a directory ``<target>`` (a symbolic link to ``<target>.<hash>``, see :func:`build_image`) with
``root.qcow2``, ``kernel``, ``initrd``, ``manifest.json`` and ``build.log``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharewright.errors import NotFound, SharewrightError
from sharewright.guest.package import build_program, program_identity
from sharewright.image import customize, disk
from sharewright.image.additions import NO_ADDITIONS, Additions
from sharewright.image.manifest import INITRD, KERNEL, ROOT, ImageManifest, read_manifest, write_manifest
from sharewright.image.packages import install_packages
from sharewright.image.recipe import (
    SOURCE_DATE_EPOCH,
    SUITE,
    Recipe,
    sources_for,
)
from sharewright.image.trees import OWN_MOUNTS, remove_tree

Progress = Callable[[str], None]

TOOLS = {  # program → Debian package
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "chroot": "coreutils",
    "tar": "tar",
    "unshare": "util-linux",
}
NAMESPACE = uuid.UUID("3a0f6f5e-9f1c-5d0b-8a53-5b1e2f1f7c11")  # for the root file system's UUID, made from the hash
MIRROR_VARIABLE = "SHAREWRIGHT_DEBIAN_MIRROR"  # in the environment: the archive to use when the caller names none
FREE_GIB = 4  # needed beside the target while building


def build_image(
    target: Path,
    *,
    force: bool = False,
    progress: Progress = lambda message: None,
    mirror: str | None = None,
    additions: Additions = NO_ADDITIONS,
) -> ImageManifest:
    """Build the image unless one of the same recipe, mirror and guest program is there. Needs root.

    ``target`` becomes a symbolic link to the directory just built, replaced in one step. The image before it stays, for
    who is just reading it; older ones go. (Running servers depend on neither: a cloud keeps its own link or copy.)
    Raises SharewrightError; what was at ``target`` is then untouched.
    """
    recipe = Recipe(
        sources=sources_for(mirror or os.environ.get(MIRROR_VARIABLE)),
        program=build_program(),
        program_identity=program_identity(),
        additions=additions,
    )
    wanted = recipe.hash()
    target = Path(os.path.abspath(target))  # noqa: PTH100 - not resolve(): the target itself is a link
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target, progress):
        if not force and (present := _usable(target, wanted)):
            progress(f"The service image in {target} is up to date ({wanted[:12]}).")
            return present
        check_tools(target)
        return _Builder(target, recipe, wanted, progress, fresh=force).build()


def _usable(target: Path, wanted: str) -> ImageManifest | None:
    """The manifest of what is at ``target`` if it is whole and of this hash."""
    try:
        manifest = read_manifest(target)
    except SharewrightError:
        return None
    if manifest.hash != wanted or not all((target / name).is_file() for name in manifest.files):
        return None
    return manifest


def superseded_images(target: Path) -> list[Path]:
    """Directories of earlier images of ``target``, the latest first."""
    current = target.resolve()
    earlier = [path for path in target.parent.glob(f"{target.name}.*") if path.is_dir() and path.resolve() != current]
    return sorted(earlier, key=lambda path: path.stat().st_mtime, reverse=True)


def check_tools(target: Path) -> None:
    """Raise SharewrightError naming everything that this host lacks for a build."""
    if os.geteuid() != 0:
        raise SharewrightError("Building the service image needs root.", hint="Run it with sudo.")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted({package for name, package in TOOLS.items() if shutil.which(name, path=path) is None})
    if missing:
        raise SharewrightError(
            f"Programs to build the image are missing; their packages: {', '.join(missing)}.",
            hint=f"apt-get install {' '.join(missing)}",
        )
    free = shutil.disk_usage(target.parent).free / 2**30
    if free < FREE_GIB:
        raise SharewrightError(
            f"{target.parent} has {free:.1f} GiB free; building an image needs {FREE_GIB}.",
            hint="Free some space, or set state_dir to a larger disk.",
        )


@contextmanager
def _locked(target: Path, progress: Progress) -> Iterator[None]:
    """One build of a target at a time on this host."""
    with (target.parent / f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another build of the same image")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Builder:
    def __init__(self, target: Path, recipe: Recipe, wanted: str, progress: Progress, *, fresh: bool = True) -> None:
        self.target, self.recipe, self.hash, self.progress, self.fresh = target, recipe, wanted, progress, fresh
        self.work = target.parent / f".{target.name}.build-{os.getpid()}"
        self.started = time.monotonic()
        self.log = self.work / "build.log"

    def build(self) -> ImageManifest:
        for stale in self.target.parent.glob(f".{self.target.name}.build-*"):
            remove_tree(stale)  # we hold the lock: whoever made it is gone
        self.work.mkdir(mode=0o755)
        try:
            manifest = self._make()
            self._publish()
        except BaseException:
            if self.log.exists():  # kept for the reader, beside the target
                self.log.replace(self.target.parent / f"{self.target.name}-failed-build.log")
            raise
        finally:
            with suppress(SharewrightError, OSError):  # the next build deletes it, or says why it cannot
                remove_tree(self.work)
        self._say(f"The service image is ready in {self.target} ({self.hash[:12]})")
        return manifest

    def _say(self, message: str) -> None:
        self.progress(f"[{time.monotonic() - self.started:4.0f} s] {message}")

    def _make(self) -> ImageManifest:
        root, out = self.work / "root", self.work / "out"
        out.mkdir(mode=0o755)
        identity = str(uuid.uuid5(NAMESPACE, self.hash))
        arguments = " ".join((f"root=UUID={identity}", *self.recipe.kernel_arguments))
        install_packages(root, self.recipe, self.target.parent, self._run, fresh=self.fresh)
        self._say("Adding our files, removing identity")
        version = customize.customize(root, self.recipe)
        kernel, initrd = customize.install_boot_files(root, version)
        packages = customize.installed_packages(root)
        self._say("Making the boot loader")
        loader = disk.boot_loader(root, self.work, identity, arguments)
        customize.clamp_times(root)
        raw = self.work / "root.raw"
        environment = {"E2FSPROGS_FAKE_TIME": str(SOURCE_DATE_EPOCH)}
        disk.write_partition_table(raw, self.recipe.size_mib, loader, identity)
        self._run("Making the file system", disk.mkfs_command(raw, root, self.recipe.size_mib, identity), environment)
        command, script = disk.change_times_script(raw)
        self._run("Setting time stamps", command, environment, script)
        self._run("Converting the disk", ["qemu-img", "convert", "-O", "qcow2", str(raw), str(out / ROOT)])
        (out / KERNEL).write_bytes(kernel)
        (out / INITRD).write_bytes(initrd)
        shutil.copyfile(self.log, out / "build.log")
        manifest = ImageManifest(
            hash=self.hash,
            suite=SUITE,
            kernel_version=version,
            kernel_arguments=arguments,
            root_uuid=identity,
            program_sha256=hashlib.sha256(self.recipe.program).hexdigest(),
            program_identity=self.recipe.program_identity,
            files={name: _sha256(out / name) for name in (ROOT, KERNEL, INITRD)},
            packages=packages,
            build_seconds=round(time.monotonic() - self.started, 1),
        )
        os.sync()
        write_manifest(out, manifest)
        return manifest

    def _run(self, what: str, command: list[str], environment: dict[str, str] | None = None, script: str = "") -> None:
        """Run a long command, ``script`` on its input, its output in the log, a sign of life every five seconds."""
        self._say(what)
        inherited = {name: os.environ[name] for name in ("PATH", "http_proxy", "https_proxy") if name in os.environ}
        inherited["PATH"] = inherited.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
        inherited |= {"LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH), **(environment or {})}
        with self.log.open("ab") as log, tempfile.TemporaryFile() as given:
            given.write(script.encode())
            given.seek(0)
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [*OWN_MOUNTS, *command],
                stdin=given,
                stdout=subprocess.DEVNULL if script else log,
                stderr=subprocess.STDOUT,
                env=inherited,
                cwd=self.work,
            )
            try:
                while True:
                    try:
                        code = process.wait(timeout=5)
                        break
                    except subprocess.TimeoutExpired:
                        self._say(f"{what} …")
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if code != 0:
            end = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            raise SharewrightError(
                f"{what} failed: {command[0]} ended with {code}. {' / '.join(end)}",
                hint=f"The whole log is {self.target.parent / f'{self.target.name}-failed-build.log'}.",
            )

    def _publish(self) -> None:
        """Give the new directory its name and point the link at it."""
        final = self.target.with_name(f"{self.target.name}.{self.hash[:12]}")
        number = 1
        while final.exists():  # forced, or damaged: it stays until the link points elsewhere
            number += 1
            final = self.target.with_name(f"{self.target.name}.{self.hash[:12]}-{number}")
        (self.work / "out").rename(final)
        if self.target.is_dir() and not self.target.is_symlink():  # a directory put there by hand
            self.target.rename(self.target.with_name(f"{self.target.name}.replaced-{int(time.time())}"))
        link = self.work / "link"
        link.symlink_to(final.name)
        link.replace(self.target)
        for old in superseded_images(self.target)[1:]:
            shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_image(target: Path) -> ImageManifest:
    """The manifest of the image at ``target``. Raises NotFound when there is none, or not a whole one."""
    manifest = read_manifest(target)
    for name in manifest.files:
        if not (target / name).is_file():
            raise NotFound(f"The service image in {target} lacks {name}.", hint="Run: sharewright image build --force.")
    return manifest
