"""The files that are copied onto an adapter agree with the settings' defaults and with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from edge import config as settings
from edge.config import Config
from edge.pairing.adapter import Adapter

ROOT = Path(__file__).parents[2]
DEPLOY, UNITS = ROOT / "deploy", ROOT / "systemd"
PHONES = Config().phones


def test_the_example_settings_with_phones_are_right(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "config", tmp_path / "config")
    config = settings.load(tmp_path / "config" / "edge.yaml")
    assert config.device == "theatre-3"
    assert config.phones.enabled
    assert config.mqtt.username == "edge"
    drop_in = (DEPLOY / "config" / "edge-phones.conf").read_text()
    credential = re.search(r"^LoadCredential=([\w-]+):(\S+)$", drop_in, re.MULTILINE)
    assert credential
    assert str(config.mqtt.password_file) == f"/run/credentials/foldsight-edge.service/{credential[1]}"
    assert credential[2] == str(Adapter(config).edge / "password")


def test_the_folders_are_those_that_are_written() -> None:
    folders = dict(re.findall(r"^d (\S+)\s+(\d+) ", (DEPLOY / "tmpfiles.conf").read_text(), re.MULTILINE))
    adapter = Adapter(Config())
    assert folders == {
        str(PHONES.state_dir): "0755",
        **{str(folder): "0700" for folder in (adapter.ca, adapter.broker, adapter.display, adapter.edge)},
    }
    display = (UNITS / "foldsight-display.service").read_text()
    assert f"ReadWritePaths={adapter.display}\n" in display
    hidden = re.search(r"^InaccessiblePaths=(.*)$", display, re.MULTILINE)
    assert hidden
    assert hidden[1].split() == [f"-{folder}" for folder in (adapter.ca, adapter.broker, adapter.edge)]
    assert f"ReadWritePaths={PHONES.state_dir}\n" in (UNITS / "foldsight-phones.service").read_text()
    user = re.search(r"^User=(\S+)$", display, re.MULTILINE)
    assert user
    assert f"u {user[1]} " in (DEPLOY / "sysusers.conf").read_text()


def test_what_is_announced_is_where_it_is() -> None:
    services = ET.parse(DEPLOY / "avahi" / "foldsight.service").getroot().findall("service")  # noqa: S314  our own file
    assert {s.findtext("type"): s.findtext("port") for s in services} == {
        "_https._tcp": str(PHONES.https_port),
        "_secure-mqtt._tcp": str(PHONES.mqtt_port),
    }


def test_the_firewall_counts_the_phones_ports() -> None:
    rules = (DEPLOY / "nftables" / "foldsight.nft").read_text()
    ports = re.search(r"tcp dport \{ ([\d, ]+) \}", rules)
    assert ports
    assert {int(p) for p in ports[1].split(",")} == {PHONES.https_port, PHONES.mqtt_port, PHONES.websocket_port}


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_the_firewall_is_right() -> None:
    checked = subprocess.run(
        ["nft", "--check", "--file", str(DEPLOY / "nftables" / "foldsight.nft")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in checked.stderr:
        pytest.skip("nft needs root here")
    assert checked.returncode == 0, checked.stderr
