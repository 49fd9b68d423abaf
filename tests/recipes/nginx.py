"""nginx with the file that is shipped: only addresses, the certificate and the log are put in their places."""

from __future__ import annotations

import datetime
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fleet import ROOT, until
from tokenrelay.loadtest.fleet import free_port

CONF: Final = ROOT / "deploy" / "nginx" / "tokenrelay.conf"

MAIN: Final = """
daemon off;
{user}
worker_processes 2;
worker_shutdown_timeout 1s;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log off;
    include {folder}/tokenrelay.conf;
}}
"""

USER: Final = "user root;" if os.geteuid() == 0 else ""
"""Root's nginx would read the folder as somebody who may not; nobody else's can change who it is."""


def find_nginx() -> str | None:
    """Where nginx is. Debian puts it where only root's PATH looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Nginx:
    """`with Nginx(fleet.urls) as nginx: nginx.url, nginx.secure_url`. `edits` replace parts of the shipped file.

    Raises AssertionError where the file has not exactly one of what is to be replaced.
    """

    def __init__(self, edges: Sequence[str], edits: dict[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tr-nginx-"))
        self._edges = [urlsplit(edge).netloc for edge in edges]
        self._edits = edits or {}
        self._process: subprocess.Popen[bytes] | None = None
        port, secure_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.secure_url = f"https://127.0.0.1:{secure_port}"
        self.certificate = self._folder / "fullchain.pem"
        self.log = self._folder / "tokenrelay.log"
        self._places = {
            "    listen 80;": f"    listen 127.0.0.1:{port};",
            "    listen 443 ssl": f"    listen 127.0.0.1:{secure_port} ssl",
            "/etc/ssl/tokenrelay/fullchain.pem": str(self.certificate),
            "/etc/ssl/tokenrelay/privkey.pem": str(self._folder / "privkey.pem"),
            "/var/log/nginx/tokenrelay.log": str(self.log),
        }

    def __enter__(self) -> Nginx:
        make_certificate(self.certificate, self._folder / "privkey.pem")
        (self._folder / "nginx.conf").write_text(MAIN.format(folder=self._folder, user=USER))
        (self._folder / "tokenrelay.conf").write_text(self._text())
        program = find_nginx()
        assert program is not None
        command = [program, "-p", str(self._folder), "-c", str(self._folder / "nginx.conf")]
        with (self._folder / "said").open("wb") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            until(self._is_there, "nginx does not answer", OSError)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def complaints(self) -> str:
        """What nginx warns of, from its start on."""
        files = [self._folder / "said", self._folder / "error.log"]
        return "".join(file.read_text() for file in files if file.exists())

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)

    def _is_there(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"nginx ended\n{self.complaints()}")
        return self.log.exists() and (self._folder / "nginx.pid").exists()

    def _text(self) -> str:
        text = CONF.read_text(encoding="utf-8")
        first, second = (line for line in text.splitlines() if line.strip().startswith("server 127.0.0.1:"))
        lines = [first.replace("127.0.0.1:8000", edge) for edge in self._edges]
        text = _replace(text, first + "\n" + second, "\n".join(lines))
        for old, new in {**self._edits, **self._places}.items():
            text = _replace(text, old, new)
        return text


def _replace(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{CONF.name} has {old!r} {text.count(old)} times"
    return text.replace(old, new)


def make_certificate(certificate: Path, key: Path) -> None:
    """One for 127.0.0.1 and localhost that signs itself, good for a day."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
