#!/bin/sh
# Installs from the distribution what the Makefile's commands need and this machine lacks.
# Usage: deploy/prerequisites.sh python|mosquitto|chromium|systemd-analyze|arm-emulation|adapter-emulation|gstreamer|namespaces|age ...
set -eu

fail() {
    echo "foldsight: $*" >&2
    exit 1
}

apt_install() { # name of the thing, then package names to try in turn
    thing=$1
    shift
    command -v apt-get >/dev/null || fail "$thing is missing and there is no apt-get here: install it yourself, then run this again"
    if [ "$(id -u)" = 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null; then
        as_root="sudo"
    else
        fail "$thing is missing and installing it needs root: run 'apt-get install $1' as root, then this again"
    fi
    echo "foldsight: installing $thing from the distribution" >&2
    log=$(mktemp)
    $as_root apt-get update -qq >"$log" 2>&1 || true # an old list may still do
    for package in "$@"; do
        if $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >>"$log" 2>&1; then
            rm -f "$log"
            return 0
        fi
    done
    tail -n 5 "$log" >&2
    rm -f "$log"
    fail "$thing could not be installed (tried: $*): install it yourself, then run this again"
}

for thing in "$@"; do
    case $thing in
    python)
        python=${PYTHON:-python3}
        command -v "$python" >/dev/null || apt_install Python python3
        "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
            fail "$("$python" --version) is not supported: Foldsight needs Python 3.10 to 3.13 (make PYTHON=python3.12 …)"
        "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "Python's venv module" python3-venv
        ;;
    mosquitto)
        command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || apt_install mosquitto mosquitto
        command -v mosquitto_sub >/dev/null || apt_install mosquitto_sub mosquitto-clients
        ;;
    chromium)
        command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
            apt_install Chromium chromium chromium-browser
        ;;
    systemd-analyze)
        command -v systemd-analyze >/dev/null || apt_install systemd-analyze systemd
        ;;
    openssl)
        command -v openssl >/dev/null || apt_install openssl openssl
        ;;
    arm-emulation)
        command -v qemu-aarch64 >/dev/null || apt_install "QEMU's user-mode emulation" qemu-user
        command -v debootstrap >/dev/null || [ -x /usr/sbin/debootstrap ] || apt_install debootstrap debootstrap
        command -v gpgv >/dev/null || apt_install gpgv gpgv
        [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] ||
            apt_install "Debian's keyring" debian-archive-keyring
        command -v gcc >/dev/null || apt_install "a C compiler" gcc
        echo 'int main(void) { return 0; }' | gcc -x c -o /dev/null - 2>/dev/null || apt_install "the C library's headers" libc6-dev
        ;;
    adapter-emulation)
        command -v qemu-system-aarch64 >/dev/null || apt_install "QEMU's emulation of whole machines" qemu-system-arm
        command -v qemu-img >/dev/null || apt_install qemu-img qemu-utils
        command -v debootstrap >/dev/null || [ -x /usr/sbin/debootstrap ] || apt_install debootstrap debootstrap
        command -v gpgv >/dev/null || apt_install gpgv gpgv
        [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] ||
            apt_install "Debian's keyring" debian-archive-keyring
        command -v depmod >/dev/null || [ -x /sbin/depmod ] || apt_install depmod kmod
        command -v mke2fs >/dev/null || [ -x /sbin/mke2fs ] || apt_install mke2fs e2fsprogs
        [ "$(id -u)" = 0 ] || command -v fakeroot >/dev/null || apt_install fakeroot fakeroot
        ;;
    namespaces) # for the fault table's rows about networks, which say so without it
        command -v ip >/dev/null || [ -x /usr/sbin/ip ] || apt_install iproute2 iproute2
        ;;
    age) # opens what recordings are sealed with: a test that anybody can
        command -v age >/dev/null || apt_install age age
        ;;
    gstreamer) # for the tests, which skip without it: the library, its plug-ins and an RTSP server, 60 MB to download
        gi=${PYTHON:-python3}
        "$gi" -c 'import sys; sys.path.append("/usr/lib/python3/dist-packages"); import gi
for name in "Gst", "GstApp", "GstVideo", "GstRtspServer": gi.require_version(name, "1.0")
from gi.repository import Gst
Gst.init(None); sys.exit(not all(map(Gst.ElementFactory.find, ("videotestsrc", "rtspsrc", "jpegdec"))))' 2>/dev/null ||
            for package in python3-gi gstreamer1.0-plugins-good gir1.2-gst-rtsp-server-1.0; do # these bring the rest
                dpkg -s "$package" >/dev/null 2>&1 || apt_install "GStreamer ($package)" "$package"
            done
        ;;
    *)
        fail "deploy/prerequisites.sh does not know '$thing'"
        ;;
    esac
done
