#!/bin/sh
# Installs Foldsight on an adapter, or removes it. It lies in every release, and is run from there; --help says how.
set -eu

usage() {
    cat <<'END'
usage: install.sh [OPTIONS]               install this release; again is harmless
       install.sh uninstall [OPTIONS]     remove Foldsight; settings and data stay

For Raspberry Pi OS and Debian (Bookworm, Trixie), JetPack 6 and Ubuntu (22.04, 24.04) with Python 3.10 to 3.13, 64 bit.
Run it as root from an unpacked release: tar xf foldsight-VERSION.tar.gz && sudo foldsight-VERSION/install.sh
Where another release is in use, this one is put on trial, and the other comes back by itself if it does not do well.

  --wheelhouse DIR   take Python packages from DIR instead of a package index (default: the release's own wheels/)
  --device NAME      the adapter's name in topics (default: the host's): lower case letters, digits and hyphens
  --no-phones        without phones: no broker for the network, no accounts, no certificates
  --key FILE         a public key (PEM): this release must be signed with it, and so must updates
  --no-apt           install nothing from the distribution; say what is missing and go on
  --no-start         do not start the services
  --board NAME       raspberrypi, jetson or other (default: looked up)
  --root DIR         install into the root folder of an image; nothing is started, secrets are made at its first start
  --python FILE      the Python to build on (default: /usr/bin/python3)
  --dry-run          say what would be done, and change nothing
  --purge            with uninstall: settings, models, certificates and paired phones too

Exit codes: 0 done, 1 it failed and says why, 2 wrong usage.
END
}

say() { echo "foldsight: $*"; }
fail() {
    echo "foldsight: $*" >&2
    exit 1
}
wrong() {
    echo "foldsight: $* (install.sh --help)" >&2
    exit 2
}
run() { # a command that changes something
    if $DRY; then echo "would run: $*"; else "$@"; fi
}
put() { # stdin into a file, unless it is there already
    if [ -e "$1" ]; then
        cat >/dev/null
    elif $DRY; then
        cat >/dev/null
        echo "would write: $1"
    else
        mkdir -p "$(dirname "$1")"
        cat >"$1.new" && chmod 644 "$1.new" && mv "$1.new" "$1"
    fi
}
live() { [ "$ROOT" = "" ] && [ -d /run/systemd/system ]; }

# What was begun and not finished goes again, whatever ends this script.
clean_up() {
    status=$?
    trap - EXIT INT TERM HUP
    if [ -n "$LOG" ]; then rm -f "$LOG"; fi
    if [ -n "$UNFINISHED" ]; then rm -rf "$UNFINISHED"; fi
    if $UNDO; then uninstall >/dev/null 2>&1 || true; fi
    exit "$status"
}

fetching() { # the same, where what goes wrong may be the network
    FETCHING=true
    quietly "$@"
    FETCHING=false
}

quietly() { # NOTE COMMAND...: its words only if it fails
    note=$1
    shift
    if $DRY; then
        echo "would run: $*"
        return 0
    fi
    "$@" >"$LOG" 2>&1 && return 0
    tail -n 8 "$LOG" >&2
    if grep -qiE 'no space left|ENOSPC|not enough free (disk )?space' "$LOG"; then
        fail "the disk is full: make room below $BASE, then run this again; nothing was changed"
    fi
    $FETCHING || fail "$note (its last words are above)"
    if grep -qiE 'do not match the hashes|hashes are required|sha256' "$LOG"; then
        fail "$note: a package is not the one that this release names; fetch it again"
    elif grep -qiE 'could not resolve|name resolution|connection|network is unreachable|no matching distribution|failed to fetch|unable to locate' "$LOG"; then
        fail "$note: no package index answers, or it does not have the package; connect the network, or give --wheelhouse DIR"
    fi
    fail "$note (its last words are above)"
}

look_at_the_system() {
    [ -r "$ROOT/etc/os-release" ] || fail "$ROOT/etc/os-release is not there: is $ROOT/ the root folder of a system?"
    system=$(. "$ROOT/etc/os-release" && echo "${ID:-unknown} ${VERSION_ID:-}")
    name=$(. "$ROOT/etc/os-release" && echo "${PRETTY_NAME:-$system}")
    case $system in
    "debian 12" | "debian 13" | "raspbian 12" | "raspbian 13" | "ubuntu 22.04" | "ubuntu 24.04") ;;
    *) fail "$name is not supported: Raspberry Pi OS or Debian 12 or 13, JetPack 6, Ubuntu 22.04 or 24.04" ;;
    esac
    machine=$(uname -m)
    case $machine in
    aarch64 | x86_64) ;;
    *) fail "this machine is $machine: Foldsight needs a 64-bit system (aarch64 or x86_64)" ;;
    esac
    if [ -z "$BOARD" ]; then
        BOARD=other
        if [ -e "$ROOT/etc/rpi-issue" ]; then BOARD=raspberrypi; fi
        if [ -e "$ROOT/etc/nv_tegra_release" ]; then BOARD=jetson; fi
    fi
    [ -x "$PYTHON" ] || fail "$PYTHON is not there: apt install python3 python3-venv"
    python_version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case $python_version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "$PYTHON is Python $python_version: Foldsight needs 3.10 to 3.13" ;;
    esac
}

look_at_the_release() {
    if ! [ -r "$HERE/VERSION" ] || ! [ -r "$HERE/SHA256SUMS" ]; then
        fail "$HERE is no release: run install.sh from an unpacked foldsight-VERSION.tar.gz (make release builds one)"
    fi
    (cd "$HERE" && sha256sum --quiet --strict --check SHA256SUMS >/dev/null 2>&1) ||
        fail "$HERE is damaged: a file is not as SHA256SUMS says; unpack it again, or fetch it again"
    VERSION=$(cat "$HERE/VERSION")
    RELEASE=$BASE/releases/$VERSION
    $STAGE || look_at_the_signature # an update was checked before it was unpacked
}

look_at_the_signature() {
    keys=$KEY
    if [ -z "$keys" ]; then
        for file in "$ROOT$KEYS"/*.pub; do
            if [ -e "$file" ]; then keys="$keys $file"; fi
        done
    fi
    if [ -z "$keys" ]; then
        say "nobody vouches for this release: no key is trusted here yet (--key FILE)"
        return 0
    fi
    command -v openssl >/dev/null || fail "openssl is needed to check the signature: apt install openssl"
    [ -r "$HERE/SHA256SUMS.sig" ] || fail "$HERE is not signed, and only signed software is trusted here"
    for file in $keys; do
        if openssl pkeyutl -verify -pubin -inkey "$file" -rawin -in "$HERE/SHA256SUMS" -sigfile "$HERE/SHA256SUMS.sig" \
            >/dev/null 2>&1; then
            say "signed with $file"
            return 0
        fi
    done
    fail "$HERE is not signed by a key that is trusted here ($keys)"
}

look_for_room() { # an environment takes 330 MB, its packages half of that while they are unpacked
    there=$BASE
    while ! [ -d "$there" ]; do there=$(dirname "$there"); done
    free=$(df -Pk "$there" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$ROOM_MB" ] || fail "the disk is full: $free MB are free at $there, $ROOM_MB are needed; make room, then run this again"
    [ -w "$there" ] || $DRY || fail "$there cannot be written: run this as root, on a root file system that is not read-only"
}

install_packages() {
    wanted="python3-venv openssl mosquitto"
    if $PHONES; then wanted="$wanted avahi-daemon"; fi
    case $BOARD in
    raspberrypi) wanted="$wanted python3-picamera2" ;;
    jetson) wanted="$wanted python3-gi gir1.2-gst-plugins-base-1.0" ;;
    esac
    missing=""
    for package in $wanted; do
        dpkg-query --admindir="$ROOT/var/lib/dpkg" -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! $APT || [ -n "$ROOT" ]; then
        say "not installed from the distribution, and needed:$missing"
        return 0
    fi
    say "installing from the distribution:$missing"
    fetching "the package lists could not be fetched" apt-get update -qq
    # shellcheck disable=SC2086  a list of names
    fetching "the distribution's packages could not be installed" \
        env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

build_environment() {
    if [ -e "$RELEASE/.complete" ]; then
        say "$VERSION is there already"
        return 0
    fi
    [ "$(readlink "$BASE/current" 2>/dev/null || true)" != "releases/$VERSION" ] ||
        fail "$RELEASE is in use and damaged: install.sh uninstall (data stays), then install again"
    say "making an environment for $VERSION with Python $python_version"
    UNFINISHED=$RELEASE
    $DRY && UNFINISHED=""
    run rm -rf "$RELEASE"
    run mkdir -p "$BASE/releases"
    site=""
    case $BOARD in # picamera2 and TensorRT come with the system, not from an index
    raspberrypi | jetson) site=--system-site-packages ;;
    esac
    # shellcheck disable=SC2086  an option or nothing
    quietly "the environment could not be made; is python3-venv installed?" "$PYTHON" -m venv --without-pip $site "$RELEASE"
    # The pip that python3-venv brings, run as it lies there: an environment of our own needs none.
    pip_wheel=$("$PYTHON" -c 'import ensurepip, glob, os.path
for folder in os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), "/usr/share/python-wheels":
    for wheel in glob.glob(folder + "/pip-*.whl"):
        print(wheel)
        raise SystemExit' 2>/dev/null) || true
    $DRY || [ -n "$pip_wheel" ] || fail "pip is missing: apt install python3-venv"
    if [ -n "$PACKAGES_FROM" ]; then
        say "taking packages from $PACKAGES_FROM as they are"
        $DRY || echo "$PACKAGES_FROM" >"$(echo "$RELEASE"/lib/python3*/site-packages)/foldsight-packages.pth"
    else
        list=$HERE/requirements.txt
        # Bookworm's picamera2 holds modules that were compiled for NumPy 1.
        if [ "$BOARD" = raspberrypi ] && [ "$python_version" = 3.11 ]; then list=$HERE/requirements-numpy1.txt; fi
        from=""
        if [ -n "$WHEELHOUSE" ]; then from="--no-index --find-links $WHEELHOUSE"; fi
        # shellcheck disable=SC2086  options
        fetching "the Python packages could not be installed" pip install -q --no-deps --only-binary=:all: $from --require-hashes -r "$list"
    fi
    quietly "Foldsight's own package could not be installed" pip install -q --no-deps --no-index "$HERE"/foldsight-*.whl
    if $DRY; then return 0; fi
    cp -R "$HERE/system" "$HERE/install.sh" "$HERE/VERSION" "$RELEASE/"
    if [ -n "$ROOT" ]; then # within the image the root folder is no part of any path
        printf '#!%s/bin/python\nimport sys\n\nfrom edge.cli import main\n\nsys.exit(main())\n' "${RELEASE#"$ROOT"}" >"$RELEASE/bin/foldsight"
    fi
    quietly "Foldsight $VERSION cannot work here" foldsight_new software check --root "$ROOT/"
    tail -n 1 "$LOG" | sed 's/^/foldsight: /'
    sync
    touch "$RELEASE/.complete"
    sync
    UNFINISHED=""
}

pip() {
    "$RELEASE/bin/python" -I -c 'import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("pip", run_name="__main__", alter_sys=True)' "$pip_wheel" --disable-pip-version-check --no-input --no-cache-dir "$@"
}

foldsight_new() {
    ORT_DISABLE_TELEMETRY=1 HOME=/nonexistent "$RELEASE/bin/python" -m edge.cli "$@"
}

write_settings() {
    device=$DEVICE
    if [ -z "$device" ]; then
        device=$(cat "$ROOT/etc/hostname" 2>/dev/null || uname -n)
        device=$(echo "$device" | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9\n' '-' | sed 's/--*/-/g; s/^-//; s/-$//' | cut -c 1-48)
    fi
    put "$ROOT/etc/foldsight/edge.yaml" <<END
# What differs from the defaults. \`foldsight config show\` prints all settings, \`foldsight config schema\` says what each
# means, \`foldsight config check\` every fault. Files in edge.d/*.yaml are laid over this one, by name.
device: ${device:-adapter} # the adapter's name in topics: lower case letters, digits and hyphens; never a patient's name
END
    if $PHONES && ! $DRY; then
        put "$ROOT/etc/foldsight/edge.d/phones.yaml" <"$HERE/config/phones.yaml"
    elif $PHONES; then
        echo "would write: $ROOT/etc/foldsight/edge.d/phones.yaml"
    fi
    run mkdir -p "$ROOT$KEYS"
    if [ -n "$KEY" ]; then
        put "$ROOT$KEYS/$(basename "$KEY" .pub).pub" <"$KEY"
    elif [ -e "$HERE/release.pub" ] && [ -z "$(ls "$ROOT$KEYS" 2>/dev/null)" ]; then
        say "updates must be signed with the key of this release from now on ($KEYS/release.pub)"
        put "$ROOT$KEYS/release.pub" <"$HERE/release.pub"
    fi
    if $PHONES; then
        if [ -d "$ROOT/etc/avahi/services" ]; then put "$ROOT/etc/avahi/services/foldsight.service" <"$HERE/config/avahi.service"; fi
        put "$ROOT/etc/nftables.d/foldsight.nft" <"$HERE/config/foldsight.nft"
    fi
}

use_release() {
    first=true
    if [ -L "$BASE/current" ]; then first=false; fi
    parts=""
    if $PHONES; then parts="--part phones"; fi
    if [ "$BOARD" = jetson ]; then parts="$parts --part jetson"; fi
    if $DRY; then
        echo "would run: foldsight software switch $VERSION $parts"
        echo "would write: units, users, folders and rules below $ROOT/usr/local/lib, the command $ROOT/usr/local/bin/foldsight"
        if live; then echo "would run: systemctl enable and start foldsight.target"; fi
        return 0
    fi
    if $first; then UNDO=true; fi
    # shellcheck disable=SC2086  options
    quietly "Foldsight $VERSION could not be taken into use" foldsight_new software switch "$VERSION" --root "$ROOT/" $parts
    if [ -n "$ROOT" ] && command -v systemd-sysusers >/dev/null; then
        quietly "the users could not be made" systemd-sysusers --root="$ROOT"
    fi
    UNDO=false
    if ! $first; then
        say "$VERSION is on trial if another release was in use: foldsight software list"
        return 0
    fi
    if live && $START; then start_services; fi
}

start_services() {
    if $PHONES; then
        say "making certificates and accounts"
        quietly "certificates and accounts could not be made: journalctl -u foldsight-phones" systemctl start foldsight-phones.service
    fi
    quietly "the broker could not be started: journalctl -u mosquitto" systemctl restart mosquitto.service
    quietly "the services could not be started" systemctl --no-block start foldsight.target
    say "waiting for the first classified frame"
    for _ in $(seq 30); do
        if systemctl --quiet is-active foldsight-edge.service; then
            say "$(systemctl show -p StatusText --value foldsight-edge.service)"
            return 0
        fi
        sleep 1
    done
    say "there is none yet; that is right where no camera is connected. Look with: foldsight doctor"
}

install() {
    if $STAGE && ! [ -e "$ROOT/etc/foldsight/edge.d/phones.yaml" ]; then PHONES=false; fi
    look_at_the_system
    look_at_the_release
    look_for_room
    install_packages
    build_environment
    if $STAGE; then return 0; fi
    write_settings
    use_release
    say "Foldsight $VERSION is installed${ROOT:+ in $ROOT}. It is research software, not a medical device."
}

uninstall() {
    if [ -d "$ROOT/etc/systemd/system" ]; then
        if live; then
            for unit in foldsight.target foldsight-edge.service foldsight-display.service foldsight-phones.timer foldsight-phones.service \
                foldsight-trial.service; do
                run systemctl --quiet disable --now "$unit" || true
            done
        fi
        for link in "$ROOT"/etc/systemd/system/*.wants/foldsight*; do
            if [ -L "$link" ]; then run rm -f "$link"; fi
        done
    fi
    lib=$ROOT/usr/local/lib
    for file in "$lib"/systemd/system/foldsight* "$lib"/systemd/system/mosquitto.service.d/foldsight.conf \
        "$lib"/sysusers.d/foldsight.conf "$lib"/tmpfiles.d/foldsight.conf "$lib"/udev/rules.d/60-foldsight-video.rules; do
        if [ -e "$file" ]; then run rm -rf "$file"; fi
    done
    # The broker must not wait for certificates that nobody makes any more.
    run rm -f "$ROOT/usr/local/bin/foldsight" "$ROOT/etc/mosquitto/conf.d/foldsight.conf" \
        "$ROOT/etc/avahi/services/foldsight.service" "$ROOT/etc/nftables.d/foldsight.nft"
    run rm -rf "$BASE"
    if live; then
        run systemctl daemon-reload
        run systemctl try-restart mosquitto.service || true
    fi
    if $PURGE; then
        run rm -rf "$ROOT/etc/foldsight" "$ROOT/var/lib/foldsight" "$ROOT/var/lib/private/foldsight" "$ROOT/var/lib/foldsight-phones"
        if [ -z "$ROOT" ] && id foldsight-display >/dev/null 2>&1; then run userdel foldsight-display; fi
        say "Foldsight is removed, with its settings and data. Packages of the distribution stay."
    else
        say "Foldsight is removed. Settings stay in $ROOT/etc/foldsight, data in $ROOT/var/lib/foldsight and foldsight-phones (--purge removes them)."
    fi
}

main() {
    HERE=$(cd "$(dirname "$0")" && pwd -P)
    COMMAND=install ROOT="" WHEELHOUSE="" PACKAGES_FROM="" DEVICE="" KEY="" BOARD="" PYTHON=/usr/bin/python3
    DRY=false PHONES=true APT=true START=true PURGE=false STAGE=false
    ROOM_MB=700 KEYS=/etc/foldsight/software-keys LOG="" UNFINISHED="" UNDO=false FETCHING=false
    while [ $# -gt 0 ]; do
        case $1 in
        install | uninstall) COMMAND=$1 ;;
        --dry-run) DRY=true ;;
        --no-phones) PHONES=false ;;
        --no-apt) APT=false ;;
        --no-start) START=false ;;
        --purge) PURGE=true ;;
        --stage) STAGE=true ;; # for `foldsight software update`: only build and check the environment
        -h | --help)
            usage
            exit 0
            ;;
        --wheelhouse | --packages-from | --root | --device | --key | --board | --python)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
            --wheelhouse) WHEELHOUSE=$(cd "$2" 2>/dev/null && pwd) || wrong "--wheelhouse $2 is no folder" ;;
            --packages-from) PACKAGES_FROM=$2 ;; # for systems that bring all packages themselves, and for the tests
            --root)
                ROOT=$(cd "$2" 2>/dev/null && pwd -P) || wrong "--root $2 is no folder"
                ROOT=${ROOT%/}
                ;;
            --device)
                DEVICE=$2
                echo "$2" | grep -qE '^[a-z0-9][a-z0-9-]{0,47}$' || wrong "--device $2: lower case letters, digits and hyphens"
                ;;
            --key)
                KEY=$2
                [ -r "$2" ] || wrong "--key $2 cannot be read"
                ;;
            --board)
                BOARD=$2
                case $2 in raspberrypi | jetson | other) ;; *) wrong "--board $2: raspberrypi, jetson or other" ;; esac
                ;;
            --python) PYTHON=$2 ;;
            esac
            shift
            ;;
        *) wrong "$1 is not known" ;;
        esac
        shift
    done
    $PURGE && [ $COMMAND = install ] && wrong "--purge goes with uninstall"
    BASE=$ROOT/opt/foldsight
    if [ -z "$WHEELHOUSE" ] && [ -d "$HERE/wheels" ]; then WHEELHOUSE=$HERE/wheels; fi
    if [ -z "$ROOT" ] && ! $DRY && [ "$(id -u)" != 0 ]; then fail "this changes the system: run it as root (sudo $0)"; fi
    umask 022
    unset PYTHONPATH PYTHONHOME
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    LOG=$(mktemp)
    $COMMAND
}

main "$@"
