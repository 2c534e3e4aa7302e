"""Tokens, accounts, certificates: what they allow, when they end, and what is left after a fault."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import re
import ssl
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edge.broker import find_mosquitto
from edge.cli import main
from edge.errors import FoldsightError
from edge.pairing import certificates, code, files, mosquitto, registry
from edge.pairing.accounts import BrokerAway
from edge.pairing.certificates import Names
from edge.pairing.lockout import Buckets, Lockout, caller
from edge.pairing.registry import Registry, TokenRefused, TooManyPhones

DEPLOY = Path(__file__).parents[2] / "deploy"
HERE = Names.of(["scope.local", "localhost"], [ipaddress.ip_address("127.0.0.1")])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Accounts:
    """What a broker would hold."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.away = False

    def create(self, username: str, password: str) -> None:
        if self.away:
            raise BrokerAway("The broker does not answer")
        self.known[username] = password

    def delete(self, username: str) -> None:
        if self.away:
            raise BrokerAway("The broker does not answer")
        self.known.pop(username, None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def phones_list(tmp_path: Path, clock: Clock) -> Registry:
    return Registry(tmp_path, clock=clock, boot="this", limit=3)


def test_a_token_is_good_for_one_phone_and_five_minutes(phones_list: Registry, clock: Clock) -> None:
    broker = Accounts()
    token = phones_list.new_token()
    assert re.fullmatch(r"[A-Za-z0-9_-]{24}", token)  # 144 bits
    username, password = phones_list.pair(token, "one", broker.create)
    assert broker.known == {username: password}
    assert re.fullmatch(r"phone-[0-9a-f]{16}", username)
    assert len(password) >= 40
    with pytest.raises(TokenRefused):
        phones_list.pair(token, "two", broker.create)
    late = phones_list.new_token()
    clock.now += 299
    phones_list.pair(late, "three", broker.create)
    old = phones_list.new_token()
    clock.now += 300
    with pytest.raises(TokenRefused):
        phones_list.pair(old, "four", broker.create)
    assert [p.name for p in phones_list.phones()] == ["one", "three"]


def test_only_a_tokens_hash_is_stored_and_only_its_owner_can_read_it(phones_list: Registry, tmp_path: Path) -> None:
    token = phones_list.new_token()
    username, password = phones_list.pair(phones_list.new_token(), "one", Accounts().create)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        assert token not in text
        assert password not in text
    assert username in (tmp_path / "pairing.json").read_text()


def test_tokens_end_with_the_machines_start_and_whatever_the_clock_does(tmp_path: Path, clock: Clock) -> None:
    token = Registry(tmp_path, clock=clock, boot="before").new_token()
    with pytest.raises(TokenRefused):
        Registry(tmp_path, clock=clock, boot="after").pair(token, "x", Accounts().create)
    clock.now -= 500  # can only be another start whose number is not known
    with pytest.raises(TokenRefused):
        Registry(tmp_path, clock=clock, boot="before").pair(token, "x", Accounts().create)


def test_while_the_broker_is_away_a_token_stays_good_and_no_one_is_revoked(phones_list: Registry) -> None:
    broker = Accounts()
    phones_list.pair(phones_list.new_token(), "one", broker.create)
    token = phones_list.new_token()
    broker.away = True
    with pytest.raises(BrokerAway):
        phones_list.pair(token, "two", broker.create)
    with pytest.raises(BrokerAway):
        phones_list.revoke("one", broker.delete)
    assert [p.name for p in phones_list.phones()] == ["one"]
    broker.away = False
    phones_list.pair(token, "two", broker.create)
    assert [p.name for p in phones_list.revoke("one", broker.delete)] == ["one"]
    assert len(broker.known) == 1


def test_names_stay_apart_and_all_means_all(phones_list: Registry) -> None:
    broker = Accounts()
    for name in ("mine", "mine", "all"):
        phones_list.pair(phones_list.new_token(), name, broker.create)
    assert [p.name for p in phones_list.phones()] == ["mine", "mine (2)", "all (2)"]
    token = phones_list.new_token()
    with pytest.raises(TooManyPhones):
        phones_list.pair(token, "fourth", broker.create)
    with pytest.raises(FoldsightError, match=r"No phone is called 'his': paired are mine, mine \(2\), all \(2\)"):
        phones_list.revoke("his", broker.delete)
    phones_list.revoke(phones_list.phones()[1].username, broker.delete)
    assert [p.name for p in phones_list.phones()] == ["mine", "all (2)"]
    assert len(phones_list.revoke("all", broker.delete)) == 2
    assert broker.known == {}
    with pytest.raises(TokenRefused):  # who holds a code must not come in after all were thrown out
        phones_list.pair(token, "late", broker.create)


def test_list_and_broker_agree_again_after_a_power_cut_between_them(phones_list: Registry) -> None:
    broker = Accounts()
    phones_list.pair(phones_list.new_token(), "stays", broker.create)
    phones_list.pair(phones_list.new_token(), "lost", broker.create)
    lost = phones_list.phones()[1].username
    broker.known.pop(lost)
    broker.known |= {"phone-0123456789abcdef": "nobody has it", "edge": "", "display": ""}
    phones_list.tidy(set(broker.known), broker.delete)
    assert [p.name for p in phones_list.phones()] == ["stays"]
    assert set(broker.known) == {phones_list.phones()[0].username, "edge", "display"}


def test_a_damaged_list_is_no_reason_to_stop(phones_list: Registry, tmp_path: Path) -> None:
    (tmp_path / "pairing.json").write_text('{"version": 1, "tok')
    assert phones_list.phones() == []
    phones_list.pair(phones_list.new_token(), "one", Accounts().create)
    assert [p.name for p in phones_list.phones()] == ["one"]


def test_of_many_that_use_a_token_at_once_one_wins(tmp_path: Path) -> None:
    token = Registry(tmp_path).new_token()
    start = threading.Barrier(8)

    def use(number: int) -> bool:
        start.wait()
        try:
            Registry(tmp_path, limit=64).pair(token, f"phone {number}", Accounts().create)
        except TokenRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, range(8))) == 1
    assert len(Registry(tmp_path).phones()) == 1


def test_another_process_waits_for_the_lock(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from edge.pairing.registry import Registry\n"
        "for _ in range(4): Registry(Path(sys.argv[1])).new_token()"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [p.wait(30) for p in both] == [0, 0]
    assert len(json.loads((tmp_path / "pairing.json").read_text())["tokens"]) == registry.TOKENS


def test_what_cannot_be_written_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FoldsightError, match="cannot be written"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_failures_lock_out_for_longer_and_longer_and_are_forgotten(clock: Clock) -> None:
    lockout = Lockout(free=5, first_s=30, longest_s=3600, clock=clock)
    assert [lockout.failed("a") for _ in range(4)] == [0, 0, 0, 0]
    assert lockout.locked_for("a") == 0
    waits = []
    for _ in range(9):
        waits.append(lockout.failed("a"))
        assert lockout.locked_for("a") == waits[-1]
        clock.now += waits[-1]
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert lockout.locked_for("b") == 0
    clock.now += 3601
    assert lockout.failed("a") == 0
    for _ in range(4):
        lockout.failed("a")
    assert lockout.locked_for("a") == 30
    lockout.succeeded("a")
    assert lockout.locked_for("a") == 0


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 10)), max_size=60))
def test_a_bucket_never_gives_more_than_burst_and_rate(steps: list[tuple[float, float]]) -> None:
    clock = Clock()
    buckets = Buckets(burst=10, rate=2, clock=clock)
    begin, spent = clock.now, 0.0
    for pause, cost in steps:
        clock.now += pause
        wait = buckets.spend("a", cost)
        if wait == 0:
            spent += cost
        else:
            clock.now += wait + 1e-6
            assert buckets.spend("a", cost) == 0
            spent += cost
        assert spent <= 10 + 2 * (clock.now - begin) + 1e-3
    assert buckets.spend("b", 10) == 0


def test_callers_are_counted_by_address_and_ipv6_by_its_64() -> None:
    assert caller("10.0.0.7") == caller("::ffff:10.0.0.7") == "10.0.0.7"
    assert caller("2001:db8::1") == caller("2001:db8::ffff:2") != caller("2001:db8:0:1::1")
    assert caller("fe80::1%wlan0") == "fe80::/64"
    assert caller("") == ""


def test_many_callers_cost_no_memory(clock: Clock) -> None:
    buckets, lockout = Buckets(1, 1, clock), Lockout(clock=clock)
    for number in range(6000):
        buckets.spend(str(number))
        lockout.failed(str(number))
    assert len(buckets._buckets) == len(lockout._records) == 4096


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_certificates_say_what_they_are_for(tmp_path: Path) -> None:
    authority = certificates.ensure_authority(tmp_path / "ca", "scope", HERE)
    assert certificates.ensure_server(tmp_path / "broker", authority, HERE)
    ca, server = load(tmp_path / "broker" / "ca.crt"), load(tmp_path / "broker" / "server.pem")
    assert (ca.not_valid_after_utc - ca.not_valid_before_utc).days == 3650
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 397
    server.verify_directly_issued_by(ca)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "scope.local"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert stat.S_IMODE((tmp_path / "ca" / "ca.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "broker" / "server.pem").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "broker" / "ca.crt").read_bytes()
    assert re.fullmatch("[0-9A-F]{64}", certificates.fingerprint((tmp_path / "broker" / "ca.crt").read_bytes()))


def test_the_authority_may_speak_for_this_adapter_only(tmp_path: Path) -> None:
    authority = certificates.ensure_authority(tmp_path / "ca", "scope", HERE)
    public = ipaddress.ip_address("93.184.216.34")
    certificates.ensure_server(
        tmp_path / "b", authority, Names.of(["bank.example", "scope.local", "a.scope.local", "-x"], [public])
    )
    server = load(tmp_path / "b" / "server.pem")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [n.value for n in names] == ["a.scope.local", "scope.local"]
    # Nor do clients believe it: a certificate for another name, signed all the same.
    key = ec.generate_private_key(ec.SECP256R1())
    forged = (
        certificates._builder(server.subject, authority.certificate.subject, key.public_key(), 9)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=False)
        .sign(authority.key, certificates.hashes.SHA256())
    )
    certificates._store(tmp_path / "forged.pem", forged, key)
    left, right = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "forged.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "b" / "ca.crt"))
    client = trusting.wrap_bio(left, right, server_hostname="bank.example")
    answering = server_side.wrap_bio(right, left, server_side=True)
    for side in (client, answering):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        client.do_handshake()


def test_a_certificate_is_renewed_when_due_when_names_come_and_when_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ensure(names: Names = HERE) -> bool:
        authority = certificates.ensure_authority(tmp_path / "ca", "scope", HERE)
        return certificates.ensure_server(tmp_path / "b", authority, names)

    assert [ensure(), ensure()] == [True, False]
    moved = Names(HERE.dns, (*HERE.addresses, ipaddress.ip_address("192.168.4.1")))
    assert [ensure(moved), ensure(moved), ensure()] == [True, False, False]  # an address that went away does no harm
    (tmp_path / "b" / "server.pem").write_text("torn")
    assert [ensure(), ensure()] == [True, False]
    (tmp_path / "b" / "ca.crt").unlink()
    assert [ensure(), ensure()] == [True, False]
    authority = (tmp_path / "ca" / "ca.pem").read_bytes()
    real = certificates._now
    monkeypatch.setattr(certificates, "_now", lambda: real() + dt.timedelta(days=330))
    assert not ensure()
    monkeypatch.setattr(certificates, "_now", lambda: real() + dt.timedelta(days=340))
    assert [ensure(), ensure()] == [True, False]
    assert (tmp_path / "ca" / "ca.pem").read_bytes() == authority
    monkeypatch.setattr(certificates, "_now", lambda: real() + dt.timedelta(days=3300))
    assert [ensure(), ensure()] == [True, False]
    assert (tmp_path / "ca" / "ca.pem").read_bytes() != authority


def test_a_code_can_be_read_from_the_picture_and_is_its_owners(tmp_path: Path) -> None:
    address = f"https://theatre-3.local:8443/#pair={'x' * 24}&ca={'AB' * 32}"
    code.save_png(address, tmp_path / "code.png")
    assert stat.S_IMODE((tmp_path / "code.png").stat().st_mode) == 0o600
    text, *_ = cv2.QRCodeDetector().detectAndDecode(cv2.imread(str(tmp_path / "code.png")))
    assert text == address
    # The terminal's half blocks are the same code: dark where there is no block.
    rows = code.terminal(address).splitlines()
    cells = {" ": (0, 0), "\u2580": (255, 0), "\u2584": (0, 255), "\u2588": (255, 255)}
    drawn = np.array([[cells[c] for c in row] for row in rows if row], np.uint8).transpose(0, 2, 1)
    picture = np.kron(drawn.reshape(-1, drawn.shape[2]), np.ones((6, 6), np.uint8))
    assert cv2.QRCodeDetector().detectAndDecode(cv2.copyMakeBorder(picture, *[24] * 4, 0, value=255))[0] == address
    with pytest.raises(FoldsightError, match="there is no folder"):
        code.save_png(address, tmp_path / "none" / "code.png")


def test_the_plugins_state_keeps_the_phones_and_mends_the_rest(tmp_path: Path) -> None:
    passwords = {"edge": "swordfish", "display": "herring"}
    assert mosquitto.plugin_state(tmp_path, "scope", passwords)
    assert not mosquitto.plugin_state(tmp_path, "scope", passwords)
    path = tmp_path / mosquitto.STATE
    state = json.loads(path.read_text())
    assert "swordfish" not in path.read_text()
    phone = {"username": "phone-1", "password": "x", "salt": "y", "iterations": 101, "roles": [{"rolename": "phone"}]}
    path.write_text(json.dumps({**state, "clients": [*state["clients"], phone]}))
    assert not mosquitto.plugin_state(tmp_path, "scope", passwords)
    assert mosquitto.plugin_state(tmp_path, "scope", {**passwords, "edge": "new"})
    assert phone in json.loads(path.read_text())["clients"]
    assert mosquitto.plugin_state(tmp_path, "other", {**passwords, "edge": "new"})
    assert "foldsight/v1/scope" not in path.read_text()
    path.write_text(path.read_text()[:100])
    assert mosquitto.plugin_state(tmp_path, "scope", passwords)
    assert {c["username"] for c in json.loads(path.read_text())["clients"]} == {"edge", "display"}


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_pair_list_and_revoke_from_the_command_line(
    phones: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "edge.yaml"
    settings = phones.config.model_dump(mode="json", include={"device", "mqtt", "phones"})
    config.write_text(json.dumps(settings))

    def run(*argv: str) -> str:
        assert main([*argv, "--config", str(config)]) == 0
        return capsys.readouterr().out

    assert run("pair", "list") == "no phone is paired\n"
    shown = run("pair", "--png", str(tmp_path / "code.png"))
    address = re.search(r"https://localhost:\d+/#pair=([\w-]{24})&ca=([0-9A-F]{64})\n", shown)
    assert address
    assert "\u2588" in shown
    assert "five minutes" in shown or "5 minutes" in shown
    assert (tmp_path / "code.png").stat().st_size > 500
    told = json.loads(run("pair", "--json"))
    assert told["seconds"] == 300
    username, _ = phones.adapter.pair(address[1], "Anna\u2019s phone")
    assert [p["username"] for p in json.loads(run("pair", "list", "--json"))] == [username]
    assert "Anna\u2019s phone" in run("pair", "list")
    assert username in phones.adapter.accounts().names()
    assert run("pair", "revoke", "Anna\u2019s phone") == "Anna\u2019s phone is revoked\n"
    assert phones.adapter.accounts().names() == {"edge", "display"}
    assert main(["pair", "revoke", "nobody", "--config", str(config)]) == 1
    assert "No phone is called 'nobody': paired are none" in capsys.readouterr().err
    assert run("pair", "revoke", "all", "--json") == "[]\n"
    assert run("broker", "prepare") == "all is as it should be\n"
    assert json.loads(run("broker", "prepare", "--json", "--restart")) == {"certificates": False, "accounts": False}
    phones.broker.stop()
    phones.adapter.registry.new_token()
    assert main(["pair", "revoke", "all", "--config", str(config)]) == 0  # nobody is paired: nothing to ask for


def test_without_phones_pairing_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "edge.yaml"
    config.write_text("device: scope\n")
    assert main(["pair", "--config", str(config)]) == 2
    assert "phones.enabled is false" in capsys.readouterr().err
    config.write_text(f"device: scope\nphones: {{enabled: true, state_dir: {tmp_path}/none}}\n")
    assert main(["pair", "--config", str(config)]) == 1
    assert "run `foldsight broker prepare` as root first" in capsys.readouterr().err


def test_the_shipped_configuration_is_the_one_that_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "edge.yaml"
    config.write_text("device: scope\nphones: {enabled: true}\n")
    assert main(["broker", "config", "--config", str(config)]) == 0
    assert capsys.readouterr().out == (DEPLOY / "mosquitto" / "foldsight.conf").read_text()
