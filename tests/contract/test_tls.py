"""TLS to Redis: the certificate's name is checked as well as its chain, and ours is shown where Redis asks for one."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.exceptions import RedisError

from tests.contract.conftest import binary
from tests.fleet import until
from tests.needs import require
from tests.stores import open_store
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.runtime.address import Tls

NAMES = ("right", "wrong", "client")


def make_certificates(folder: Path) -> None:
    """An authority, and what it signed: for 127.0.0.1, for another host, for a client."""
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])

    def sign(subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(authority).public_key(public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    (folder / "ca.pem").write_bytes(
        sign(authority, key.public_key(), x509.BasicConstraints(ca=True, path_length=None), subject_key)
    )
    places: dict[str, x509.GeneralName] = {
        "right": x509.IPAddress(ipaddress.ip_address("127.0.0.1")), "wrong": x509.DNSName("redis.example"),
        "client": x509.DNSName("edge.example"),
    }  # fmt: skip
    for name, place in places.items():
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        (folder / f"{name}.pem").write_bytes(
            sign(subject, own.public_key(), x509.SubjectAlternativeName([place]), issuer)
        )
        (folder / f"{name}.key").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def ports(folder: Path) -> Iterator[dict[str, int]]:
    """A Redis with the right certificate and one with another's."""
    server = binary("redis")  # the bundled one is built without TLS
    require(server, "redis-server")
    servers, ports = [], {}
    for name in ("right", "wrong"):
        ports[name] = free_port()
        command = [
            str(server), "--port", "0", "--tls-port", str(ports[name]), "--save", "", "--dir", str(folder),
            "--tls-cert-file", str(folder / f"{name}.pem"), "--tls-key-file", str(folder / f"{name}.key"),
            "--tls-ca-cert-file", str(folder / "ca.pem"),
        ]  # fmt: skip
        servers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    yield ports
    for each in servers:
        each.kill()
        each.wait(10)


def pings(port: int, tls: Tls) -> bool:
    async def ping() -> bool:
        redis = open_store(f"rediss://127.0.0.1:{port}/0", tls)
        try:
            return bool(await redis.ask("PING"))
        finally:
            await redis.aclose()

    return asyncio.run(ping())


def test_the_name_is_checked_and_a_certificate_of_our_own_is_shown(folder: Path, ports: dict[str, int]) -> None:
    ours = Tls(str(folder / "ca.pem"), str(folder / "client.pem"), str(folder / "client.key"))
    until(lambda: pings(ports["right"], ours), "Redis does not answer over TLS", RedisError, OSError)
    for port, tls in (
        (ports["wrong"], ours),  # a certificate of the same authority, for another host
        (ports["right"], Tls(str(folder / "ca.pem"))),  # it asks for ours
        (ports["right"], Tls(cert=ours.cert, key=ours.key)),  # nobody vouches for it
    ):
        with pytest.raises((RedisError, OSError)):
            pings(port, tls)


def test_sentinels_and_what_they_name_are_reached_over_tls_as_well() -> None:
    from tokenrelay.protocol.runtime import redis as runtime

    pool = runtime.open_pool("rediss+sentinel://h:1,i:2/main/3", 4, Tls())
    assert pool.connection_kwargs["ssl_check_hostname"] is True
    assert "SSL" in pool.connection_class.__mro__[1].__name__
    sentinels = pool.sentinel_manager.sentinels  # type: ignore[attr-defined]
    assert all(each.connection_pool.connection_kwargs["ssl_check_hostname"] for each in sentinels)
