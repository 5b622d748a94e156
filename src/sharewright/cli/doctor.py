"""``sharewright doctor``: what this host lacks and how to get it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import msgspec

from sharewright.cli.doctor_named import examine_named
from sharewright.cli.host import Host, ThisHost
from sharewright.cli.image import image_path
from sharewright.cli.options import Commands, add_command, open_store, read_settings
from sharewright.cli.users import user_file
from sharewright.clouds.contract import Cloud
from sharewright.errors import CloudObjectMissing, SharewrightError
from sharewright.logging import without_secrets
from sharewright.settings import Backend, Settings

Level = Literal["ok", "warning", "problem"]

# Program → Debian package, and whether the libvirt cloud can do without it.
PROGRAMS = {
    "libvirtd": ("libvirt-daemon", True),
    "virtlogd": ("libvirt-daemon", True),
    "qemu-system-x86_64": ("qemu-system-x86", True),
    "qemu-img": ("qemu-utils", True),
    "nft": ("nftables", True),
    "ip": ("iproute2", True),
    "dnsmasq": ("dnsmasq-base", True),
    "mmdebstrap": ("mmdebstrap", False),
    "mkfs.ext4": ("e2fsprogs", False),
}
LEAST_DISK = 3 * 2**30
GOOD_DISK = 20 * 2**30
LEAST_MEMORY_MIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. ``problem`` is essential: without it the service does not work. ``fix`` says what to do."""

    level: Level
    subject: str
    text: str
    fix: str = ""


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "doctor",
        run,
        help="what this host lacks, and how to get it; exit code 1 when something essential is missing",
        examples="  sudo sharewright doctor\n  sharewright doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--cloud", choices=["libvirt", "openstack", "simulated"], help="look only at what this cloud needs"
    )


def run(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    findings = list(examine(ThisHost(), settings, cloud=arguments.cloud))
    if arguments.json:
        print(msgspec.json.encode(findings).decode())
    else:
        for finding in findings:
            print(f"{finding.level:8} {finding.subject}: {finding.text}")
            if finding.fix:
                print(f"{'':8} → {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if not arguments.json:
        print(f"\nProblems: {problems}. Warnings: {warnings}.")
    return 1 if problems else 0


def examine(host: Host, settings: Settings, *, cloud: str | None = None) -> Iterator[Finding]:
    """Every finding about the host as this configuration needs it."""
    clouds = {cloud} if cloud else {backend.cloud for backend in settings.backends.values()}
    yield from examine_python(host)
    if settings.keeps_files:
        yield from examine_state_dir(host, settings)
    else:
        yield Finding(level="ok", subject="state directory", text="not needed: nothing is kept on this host")
    if "libvirt" in clouds:
        yield from examine_programs(host)
        yield from examine_libvirt(host, settings)
        yield from examine_room(host, settings)
        yield from examine_image(image_path(settings))
    if "openstack" in clouds:
        yield from examine_openstack(host, settings)
    for level, subject, text, fix in examine_named(settings, clouds):
        yield Finding(level=level, subject=subject, text=text, fix=fix)
    yield from examine_database(settings)
    yield from examine_api(host, settings)


def examine_python(host: Host) -> Iterator[Finding]:
    found = ".".join(map(str, host.python()))
    if host.python() < (3, 11):
        yield Finding(
            level="problem",
            subject="Python",
            text=f"{found} is too old.",
            fix="Use Python 3.11 or newer (Debian 12 has it).",
        )
    else:
        yield Finding(level="ok", subject="Python", text=found)


def examine_programs(host: Host) -> Iterator[Finding]:
    missing = {name: entry for name, entry in PROGRAMS.items() if not host.has_program(name)}
    if not missing:
        yield Finding(level="ok", subject="programs", text="all there")
        return
    packages = sorted({package for package, _ in missing.values()})
    yield Finding(
        level="problem" if any(essential for _, essential in missing.values()) else "warning",
        subject="programs",
        text=f"missing: {', '.join(missing)}.",
        fix=f"apt-get install {' '.join(packages)}",
    )


def examine_libvirt(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.user() != 0:
        yield Finding(
            level="problem",
            subject="user",
            text="the libvirt cloud makes bridges and packet filters, and needs root.",
            fix="Run with sudo. Without root: sharewright serve --cloud simulated",
        )
    if not host.has_module("libvirt"):
        yield Finding(
            level="problem",
            subject="libvirt",
            text="the Python module is missing.",
            fix="pip install 'sharewright[libvirt]' (it needs gcc, pkg-config, python3-dev, libvirt-dev)",
        )
    elif reason := host.libvirt_failure(settings.libvirt.uri):
        if settings.libvirt.start_daemons and host.has_program("libvirtd"):
            yield Finding(level="ok", subject="libvirt", text="not running; sharewright starts it when it needs it")
        else:
            yield Finding(
                level="problem",
                subject="libvirt",
                text=f"{settings.libvirt.uri} does not answer: {reason}.",
                fix="systemctl start libvirtd, or set libvirt.start_daemons = true",
            )
    else:
        yield Finding(level="ok", subject="libvirt", text=f"{settings.libvirt.uri} answers")
    if settings.libvirt.accelerator == "tcg":
        yield Finding(level="ok", subject="KVM", text='not wanted (libvirt.accelerator = "tcg")')
    elif host.user() == 0 and host.has_program("qemu-system-x86_64"):
        reason = host.kvm_failure(image_path(settings) / "kernel")
        if not reason:
            yield Finding(level="ok", subject="KVM", text="boots a virtual machine")
        else:
            yield Finding(
                level="problem" if settings.libvirt.accelerator == "kvm" else "warning",
                subject="KVM",
                text=f"{reason}; virtual machines are emulated, about ten times slower.",
                fix="Switch on VT-x or AMD-V (inside a VM: nested virtualization); modprobe kvm_intel or kvm_amd",
            )


def examine_openstack(host: Host, settings: Settings) -> Iterator[Finding]:
    if not host.has_module("openstack"):
        yield Finding(
            level="problem",
            subject="OpenStack",
            text="the Python package openstacksdk is missing.",
            fix="pip install 'sharewright[openstack]'",
        )
        return
    from sharewright.clouds.openstack.cloud import OpenStackCloud

    where = settings.openstack.cloud or settings.openstack.auth_url
    with closing(
        OpenStackCloud(
            settings.openstack, deployment=settings.deployment, service_networks=settings.has_service_networks
        )
    ) as cloud:
        try:
            cloud.check()
            capacity = cloud.volumes.capacity()
        except SharewrightError as error:
            yield Finding(level="problem", subject="OpenStack", text=error.message, fix=error.hint)
            return
        yield Finding(level="ok", subject="OpenStack", text=f"{where} answers")
        free = "unknown" if capacity.free is None else f"{capacity.free:.0f} GiB"
        yield Finding(
            level="ok" if capacity.free is None or capacity.free >= 1 else "warning",
            subject="volumes",
            text=f"room: {free}",
            fix="" if capacity.free is None or capacity.free >= 1 else "Raise the project's quota, or add storage.",
        )
        for name, backend in settings.backends.items():
            if backend.cloud != "openstack":
                continue
            try:
                for volume_type in filter(None, (backend.volume_type, *backend.volume_types)):
                    cloud.volumes.capacity(volume_type)
                cloud.compute.check(backend.flavor, backend.image)
                check_admin_network(cloud, backend)
            except SharewrightError as error:
                yield Finding(level="problem", subject=f"backend {name}", text=error.message, fix=error.hint)
            else:
                yield Finding(level="ok", subject=f"backend {name}", text=f"flavor {backend.flavor} and an image")


def check_admin_network(cloud: Cloud, backend: Backend) -> None:
    """CloudError when the backend's admin network is not to be had."""
    if not backend.admin_network_id:
        return
    if cloud.networks.find_admin_network(backend.admin_network_id, backend.admin_subnet_id) is None:
        raise CloudObjectMissing(
            f"There is no network {backend.admin_network_id} with subnet {backend.admin_subnet_id}.",
            hint="Check admin_network_id and admin_subnet_id.",
        )


def examine_room(host: Host, settings: Settings) -> Iterator[Finding]:
    free = host.free_bytes(settings.state_path)
    text = f"{free / 2**30:.0f} GiB free for {settings.state_path}"
    if free < LEAST_DISK:
        yield Finding(
            level="problem", subject="disk", text=f"{text}.", fix="Make room, or set state_dir to a larger disk."
        )
    elif free < GOOD_DISK:
        yield Finding(level="warning", subject="disk", text=f"{text}; shares are sparse files and grow there.")
    else:
        yield Finding(level="ok", subject="disk", text=text)
    for name, each in settings.libvirt.volume_types.items():
        directory = Path(each.directory)
        if host.file(directory) is None:
            yield Finding(
                level="problem", subject=f"volume type {name}", text=f"there is no directory {directory}.",
                fix="Make it, or mount the file system that belongs there.",
            )  # fmt: skip
        else:
            room = host.free_bytes(directory) / 2**30
            yield Finding(level="ok", subject=f"volume type {name}", text=f"{room:.0f} GiB free for {directory}")
    memory = host.available_memory_mib()
    if memory < LEAST_MEMORY_MIB:
        yield Finding(
            level="warning",
            subject="memory",
            text=f"{memory} MiB available; each share server needs its backend's memory_mib.",
            fix="Free some memory, or lower memory_mib.",
        )
    else:
        yield Finding(level="ok", subject="memory", text=f"{memory} MiB available")


def examine_image(path: Path) -> Iterator[Finding]:
    from sharewright.image.check import check_image

    if not path.exists():
        yield Finding(
            level="problem", subject="service image", text=f"there is none at {path}.", fix="sharewright image build"
        )
        return
    findings = check_image(path)
    wrong = [f"{finding.subject}: {finding.message}" for finding in findings if finding.severity == "error"]
    if wrong:
        yield Finding(
            level="problem",
            subject="service image",
            text=f"{path}: {' '.join(wrong)}",
            fix="sharewright image build --force, or bring an image that sharewright image check accepts",
        )
    elif path.is_dir() and not is_current(path):
        yield Finding(
            level="warning",
            subject="service image",
            text=f"{path} is of another version.",
            fix="sharewright image build",
        )
    else:
        yield Finding(level="ok", subject="service image", text=str(path))


def is_current(image: Path) -> bool:
    """Whether an image directory is what `sharewright image build` would build now. Another's image is no concern."""
    from sharewright.guest.package import build_program, program_identity
    from sharewright.image.manifest import read_manifest
    from sharewright.image.recipe import Recipe, sources_for

    try:
        built = read_manifest(image).hash
    except SharewrightError:
        return True
    recipe = Recipe(sources=sources_for(None), program=build_program(), program_identity=program_identity())
    return built == recipe.hash()


def examine_state_dir(host: Host, settings: Settings) -> Iterator[Finding]:
    path = settings.state_path
    facts = host.file(path)
    if facts is None:
        parent = next(parent for parent in path.parents if host.file(parent) is not None)
        above = host.file(parent)
        if above is not None and above.writable:
            yield Finding(level="ok", subject="state directory", text=f"{path} will be made")
        else:
            yield Finding(
                level="problem",
                subject="state directory",
                text=f"{path} does not exist, and {parent} may not be written by this user.",
                fix="Run as root, or set state_dir to a directory of your own.",
            )
        return
    if not facts.is_directory or not facts.writable:
        what = "is not a directory" if not facts.is_directory else "may not be written by this user"
        yield Finding(
            level="problem",
            subject="state directory",
            text=f"{path} {what}.",
            fix="Run as root, or set state_dir to a directory of your own.",
        )
        return
    if facts.mode & 0o022:
        yield Finding(
            level="problem",
            subject="state directory",
            text=f"{path} may be written by others.",
            fix=f"chmod 711 {path}",
        )
    else:
        yield Finding(level="ok", subject="state directory", text=str(path))
    for name in ("master.key", "access.key", "sharewright.db"):
        inner = host.file(path / name)
        if inner is not None and inner.mode & 0o077:
            yield Finding(
                level="problem",
                subject="state directory",
                text=f"{path / name} may be read by others.",
                fix=f"chmod 600 {path / name}",
            )


def examine_database(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy.exc import SQLAlchemyError

    from sharewright.store.migrations import current_revision, newest_revision

    where = without_secrets(settings.database_url)
    if settings.database_url.startswith("sqlite:///") and not Path(settings.database_url[10:]).exists():
        yield Finding(level="ok", subject="database", text=f"{where} will be made")
        return
    try:
        with closing(open_store(settings)) as store:
            have = current_revision(store)
    except (SharewrightError, SQLAlchemyError, ImportError, OSError) as error:
        yield Finding(
            level="problem",
            subject="database",
            text=f"{where} does not answer: {without_secrets(str(error).splitlines()[0])}",
            fix="Check database.url, that the server runs, and for PostgreSQL: pip install 'sharewright[postgresql]'",
        )
        return
    if have == newest_revision():
        yield Finding(level="ok", subject="database", text=f"{where}, revision {have}")
    else:
        yield Finding(
            level="warning",
            subject="database",
            text=f"{where} has revision {have or 'none'}, this version needs {newest_revision()}.",
            fix="sharewright db upgrade (sharewright serve does it by itself)",
        )


def examine_api(host: Host, settings: Settings) -> Iterator[Finding]:
    where = f"{settings.api.listen} port {settings.api.port}"
    owner = host.port_owner(settings.api.listen, settings.api.port)
    if owner == "other":
        yield Finding(
            level="problem",
            subject="API",
            text=f"{where} cannot be used: another program has it, or it is no address of this host.",
            fix="End that program, or set api.listen and api.port.",
        )
    else:
        yield Finding(
            level="ok", subject="API", text=f"{where}: {'Sharewright answers' if owner != 'free' else 'free'}"
        )
    if settings.identity.mode == "none":
        if not ip_address(settings.api.listen).is_loopback:
            yield Finding(
                level="problem",
                subject="identity",
                text=f'everybody who reaches {where} is administrator (identity.mode = "none").',
                fix="Set identity.mode to http_basic or builtin, or api.listen to 127.0.0.1.",
            )
    elif settings.identity.mode == "keystone":
        yield from examine_keystone(host, settings)
    else:
        yield from examine_users(settings)


def examine_keystone(host: Host, settings: Settings) -> Iterator[Finding]:
    """Whether Keystone knows the service's user, lets it ask about tokens, and has the service in its catalogue."""
    if not host.has_module("keystoneauth1"):
        yield Finding(
            level="problem",
            subject="identity",
            text="the Python module keystoneauth1 is missing.",
            fix="pip install 'sharewright[keystone]'",
        )
        return
    from keystoneauth1.exceptions import ClientException

    from sharewright.api.identity.access_rules import SERVICE_TYPES
    from sharewright.api.identity.keystone import open_session

    keystone = settings.identity.keystone
    try:
        session = open_session(keystone)
        access = session.auth.get_access(session)  # type: ignore[union-attr]
    except SharewrightError as error:
        yield Finding(level="problem", subject="identity", text=error.message, fix=error.hint)
        return
    except ClientException as error:
        yield Finding(
            level="problem",
            subject="identity",
            text=f"Keystone gives {keystone.username} no token: {str(error).rstrip('.')}.",
            fix="Check [identity.keystone]: auth_url, username, password_file, project, the domains, ca_file.",
        )
        return
    if not {"admin", "service"} & set(access.role_names):
        yield Finding(
            level="problem",
            subject="identity",
            text=f"{keystone.username} may not ask Keystone about tokens; its roles: {' '.join(access.role_names)}.",
            fix=f"openstack role add --user {keystone.username} --project {keystone.project} service",
        )
        return
    yield Finding(level="ok", subject="identity", text=f"{keystone.auth_url} knows {keystone.username}")
    if not any(access.service_catalog.get_endpoints(service_type=kind) for kind in SERVICE_TYPES):
        yield Finding(
            level="warning",
            subject="catalogue",
            text="clients do not find this service there.",
            fix="sharewright keystone register URL",
        )


def examine_users(settings: Settings) -> Iterator[Finding]:
    from sharewright.api.identity.users import read_users

    path = user_file(settings)
    try:
        users = read_users(path)
    except SharewrightError as error:
        yield Finding(level="problem", subject="identity", text=error.message, fix=error.hint)
        return
    if not users.users:
        yield Finding(
            level="warning", subject="identity", text=f"{path} has no users.", fix="sharewright user add NAME"
        )
    else:
        yield Finding(level="ok", subject="identity", text=f"{len(users.users)} users in {path}")
