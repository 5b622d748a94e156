# Debian packages and the Python environment, for ./quickstart and ./check. Sourced, not run.
# Expects: set -euo pipefail, and $root naming the top of the checkout.

packages_to_run=(
  libvirt-daemon-system libvirt-daemon libvirt-daemon-driver-qemu qemu-system-x86 qemu-utils
  mmdebstrap dnsmasq-base libnfs-utils e2fsprogs xfsprogs nftables iproute2 openssh-client
  python3-venv python3-dev libvirt-dev gcc libc6-dev pkg-config
)
packages_to_check=(postgresql openssh-server fdisk systemd openvswitch-switch smbclient)

started=$SECONDS

say() { printf '[%3d s] %s\n' "$((SECONDS - started))" "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$1" >&2
  [[ $# -lt 2 ]] || printf '       %s\n' "$2" >&2
  exit 1
}

# quietly LOG WHAT COMMAND...: run a long command with its output in LOG and a sign of life every 15 seconds.
quietly() {
  local log=$1 what=$2 begun=$SECONDS waited=0 process status=0
  shift 2
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 </dev/null &
  process=$!
  while kill -0 "$process" 2>/dev/null; do
    sleep 0.5
    if ((SECONDS - begun >= waited + 15)); then
      waited=$((SECONDS - begun))
      say "$what … still at it after $waited s"
    fi
  done
  wait "$process" || status=$?
  if ((status != 0)); then
    printf -- '---- the end of %s ----\n' "$log" >&2
    tail -n 25 "$log" >&2
    printf -- '----\n' >&2
  fi
  return "$status"
}

# install_packages NAME...: install the Debian packages that are missing.
install_packages() {
  local missing=() package log=$root/build/packages.log present
  present=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qxF "installed $package" <<<"$present" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  ((EUID == 0)) || die "These Debian packages are missing: ${missing[*]}" "Run this as root, or: apt-get install ${missing[*]}"
  say "Installing Debian packages: ${missing[*]}"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends
    -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "${missing[@]}")
  if [[ -z $(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -print -quit 2>/dev/null) ]] ||
    ! quietly "$log" "apt-get install" "${install[@]}"; then
    say "Refreshing the package lists"
    quietly "$log.update" "apt-get update" apt-get update -o DPkg::Lock::Timeout=600 ||
      die "apt-get update failed." "Check /etc/apt/sources.list and the network; the log is $log.update"
    quietly "$log" "apt-get install" "${install[@]}" ||
      die "The packages could not be installed." "The log is $log"
  fi
}

# make_environment EXTRAS OWNER REQUIREMENT...: .venv with this checkout installed; nothing to do when pyproject.toml
# has not changed since. OWNER is remembered by the run that makes it, so that ./quickstart --purge removes only its own.
make_environment() {
  local extras=$1 owner=$2 python=/usr/bin/python3 log=$root/build/environment.log wanted stamp
  shift 2
  [[ -x $python ]] || die "There is no $python." "apt-get install python3"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$python is $("$python" -V 2>&1), and Sharewright needs Python 3.11 or newer." "Debian 12 has it."
  (
    flock 9
    stamp=$root/.venv/.sharewright-$extras
    wanted=$({ cat "$root/pyproject.toml"; echo "$root" "$@"; "$python" -V; } | sha256sum)
    if [[ ! -x $root/.venv/bin/python ]]; then
      say "Making the Python environment in .venv"
      quietly "$log" "python3 -m venv" "$python" -m venv "$root/.venv" ||
        die "The virtual environment could not be made." "The log is $log"
      echo "$owner" >"$root/.venv/.made-by"
    fi
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
      say "Installing Python packages into .venv"
      quietly "$log" "pip install" "$root/.venv/bin/python" -m pip install --disable-pip-version-check --quiet \
        -e "$root[$extras]" "$@" || die "pip could not install the Python packages." "The log is $log"
      echo "$wanted" >"$stamp"
    fi
  ) 9>"$root/.venv.lock"
}
