"""The word of an adapter whose daemon does not run any more."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Rehearsed

from edge import cli
from edge.broker import free_ports
from edge.messages import Status
from edge.service import next_session
from edge.standin import announce


def heard(site: Rehearsed) -> Status:
    """What a program that subscribes later is told, with the daemon's account."""
    password = (site.adapter.edge / "password").read_text().strip()
    argv = ["mosquitto_sub", "-V", "mqttv5", "-h", site.broker.host, "-p", str(site.broker.port)]
    argv += ["-u", "edge", "-P", password, "-t", "foldsight/v1/adapter-1/status", "-C", "1", "-W", "30"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return Status.model_validate_json(done.stdout)


@pytest.mark.system
def test_phones_read_that_the_daemon_failed_until_the_next_one_speaks(
    phones: Rehearsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed (mosquitto-clients)")
    folder = phones.config.effective_state_dir
    folder.mkdir(parents=True, exist_ok=True)
    session = next_session(folder)
    # As on a device: the settings name the daemon's credential, and this unit has a copy of it.
    credentials = phones.adapter.edge.parent / "credentials"
    credentials.mkdir()
    shutil.copy(phones.adapter.edge / "password", credentials / "mqtt-password")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    named = Path("/run/credentials/foldsight-edge.service/mqtt-password")
    mqtt = phones.config.mqtt.model_copy(update={"password_file": named})
    announce(phones.config.model_copy(update={"mqtt": mqtt}), "the daemon failed again and again")
    status = heard(phones)
    assert (status.state, status.reasons) == ("degraded", ["the daemon failed again and again"])
    assert status.session == session
    assert next_session(folder) > status.session  # so the next daemon's word counts, and this one no longer


def test_without_a_broker_it_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["degraded", "--set", f"mqtt.port={free_ports(1)[0]}", "--set", f"state_dir={tmp_path}"]
    assert cli.main(argv) == 1
    assert "was not told (" in capsys.readouterr().err
