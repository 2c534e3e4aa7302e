"""The adapter's own certificate authority, and the certificates that its broker and its page show to phones.

Made on first start, renewed when they come near their end or when the adapter's names or addresses change. The
authority may speak for this adapter's names and for private addresses only (RFC 5280, 4.2.1.10): a phone that trusts it
trusts it for nothing else.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import ipaddress
import logging
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.pairing import files

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 397
RENEW_DAYS: Final = 60
_PRIVATE: Final = tuple(
    ipaddress.ip_network(n)
    for n in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
              "::1/128", "fc00::/7", "fe80::/10")
)  # fmt: skip
_INTERFACES: Final = Path("/sys/class/net")
_SIOCGIFADDR: Final = 0x8915
_DNS_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Names:
    """What a phone may call the adapter."""

    dns: tuple[str, ...]
    addresses: tuple[Address, ...]

    @classmethod
    def of(cls, dns: Iterable[str], addresses: Iterable[Address]) -> Names:
        """Sorted, each once; what is no host name is left out."""
        names = {name.lower().rstrip(".") for name in dns}
        return cls(
            tuple(sorted(n for n in names if _DNS_NAME.fullmatch(n))),
            tuple(sorted(set(addresses), key=lambda a: (a.version, int(a)))),
        )


def local_addresses() -> list[Address]:
    """The IPv4 addresses of this machine's interfaces, and loopback.

    IPv6 is left to the names: its addresses change by themselves, and a certificate should not change with them.
    """
    found: list[Address] = [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # From /sys, since listing interfaces by the C library takes a netlink socket, which the unit forbids.
        for name in sorted(p.name for p in _INTERFACES.glob("*")):
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            found.append(ipaddress.IPv4Address(answer[20:24]))
    return found


@dataclass(frozen=True, slots=True)
class Authority:
    """The adapter's certificate authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def permitted(self, names: Names) -> Names:
        """Those of the names and addresses that it may speak for."""
        constraints = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        trees = constraints.permitted_subtrees or []
        hosts = [t.value for t in trees if isinstance(t, x509.DNSName)]
        networks = [t.value for t in trees if isinstance(t, x509.IPAddress)]
        return Names(
            tuple(n for n in names.dns if any(n == h or n.endswith(f".{h}") for h in hosts)),
            tuple(a for a in names.addresses if any(_inside(a, n) for n in networks)),
        )


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a PEM certificate as phones show it, but without the colons: 64 hexadecimal digits."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex().upper()


def ensure_authority(folder: Path, name: str, names: Names) -> Authority:
    """The authority in `ca.pem`, made if it is not there, damaged, or at its end.

    Args:
        folder: readable by nobody but the one that signs.
        name: the adapter's, part of the subject.
        names: what it may ever speak for, beside private addresses.

    Raises:
        FoldsightError: the folder cannot be read or written.
    """
    pair = _load(folder / "ca.pem")
    if pair is not None and pair[0].not_valid_after_utc - _now() > dt.timedelta(days=SERVER_DAYS):
        return Authority(*pair)
    if pair is not None:
        log.warning("the certificate authority comes to its end: a new one is made, and phones must trust it anew")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Foldsight"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"Foldsight {name}"[:64]),
    ])  # fmt: skip
    permitted: list[x509.GeneralName] = [x509.DNSName(n) for n in names.dns]
    permitted += [x509.IPAddress(network) for network in _PRIVATE]
    public = [a for a in names.addresses if not any(_inside(a, network) for network in _PRIVATE)]
    permitted += [x509.IPAddress(ipaddress.ip_network(a)) for a in public]
    certificate = (
        _builder(subject, subject, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _store(folder / "ca.pem", certificate, key)
    log.info("a certificate authority was made: %s", fingerprint(_pem(certificate)))
    return Authority(certificate, key)


def ensure_server(folder: Path, authority: Authority, names: Names) -> bool:
    """A server's `server.pem` (with `ca.crt` beside it), made or renewed where that is due.

    Args:
        folder: readable by that server alone.
        authority: who signs.
        names: what it is called; names that the authority may not speak for are left out.

    Returns:
        Whether it was made anew, so that the server must load it.

    Raises:
        FoldsightError: the folder cannot be read or written.
    """
    names = authority.permitted(names)
    pair = _load(folder / "server.pem")
    files_same = files.read(folder / "ca.crt") == _pem(authority.certificate)
    if pair is not None and files_same and _still_good(pair[0], authority, names):
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (names.dns or ("foldsight",))[0][:64])])
    alternative: list[x509.GeneralName] = [x509.DNSName(n) for n in names.dns]
    alternative += [x509.IPAddress(a) for a in names.addresses]
    public = authority.key.public_key()
    certificate = (
        _builder(subject, authority.certificate.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    files.write(folder / "ca.crt", _pem(authority.certificate), files.PUBLIC)
    _store(folder / "server.pem", certificate, key)
    log.info("a certificate was made for %s", ", ".join([*names.dns, *map(str, names.addresses)]))
    return True


def _still_good(certificate: x509.Certificate, authority: Authority, names: Names) -> bool:
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {*alternative.get_values_for_type(x509.DNSName), *alternative.get_values_for_type(x509.IPAddress)}
    # An address that went away does no harm, and may come back.
    complete = known.issuperset([*names.dns, *names.addresses])
    return complete and certificate.not_valid_after_utc - _now() > dt.timedelta(days=RENEW_DAYS)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    # A day back: the phone's clock may be behind the adapter's.
    begin = _now() - dt.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=days))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign, key_cert_sign=sign, crl_sign=sign, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _load(path: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """Certificate and key where both are there, whole, and belong together."""
    pem = files.read(path)
    if pem is None:
        return None
    try:
        certificate, key = x509.load_pem_x509_certificate(pem), serialization.load_pem_private_key(pem, None)
    except ValueError:
        log.warning("%s is damaged and is made anew", path.name)
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return certificate, key


def _store(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    # Both in one file, so that no power cut can leave a key beside another key's certificate.
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.write(path, private + _pem(certificate))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _inside(address: Address, network: Any) -> bool:
    return bool(address.version == network.version and address in network)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
