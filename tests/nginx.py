"""A real nginx in front of services: docs/nginx.conf, with other ports, paths and time-outs."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx

from helpers import wait_until
from postgres import accepts, free_port
from service import ROOT, Service

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
NEIGHBOUR = "127.0.0.2"  # to nginx, another client
TEMPORARY = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]


class Proxy:
    """An nginx process with the configuration of docs/, in front of one service or two."""

    def __init__(self, directory: Path, changes: dict[str, str], *services: Service) -> None:
        self.service, *others = services
        self.since = len(self.service.log.read_text())
        self.port, self.plain_port = free_port(), free_port()
        self.error_log = directory / "error.log"
        certificate, key = directory / "certificate.pem", directory / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
                *("-keyout", key, "-out", certificate),
            ],
            capture_output=True,
            timeout=60,
            check=True,
        )
        self.tls = ssl.create_default_context(cafile=certificate)
        configuration = (ROOT / "docs/nginx.conf").read_text()
        temporary = "".join(f"{name}_temp_path {directory}/{name}; " for name in TEMPORARY)
        places = {
            "/run/nginx.pid": f"{directory}/pid",
            "/var/log/nginx/error.log": str(self.error_log),
            "/var/log/nginx/access.log": f"{directory}/access.log",
            "/etc/ssl/users/fullchain.pem": str(certificate),
            "/etc/ssl/users/privkey.pem": str(key),
            "127.0.0.1:8000": self.service.url.removeprefix("http://"),
            "server 127.0.0.1:8001 fail_timeout=1s;": "".join(
                f"server {other.url.removeprefix('http://')} fail_timeout=1s;" for other in others
            ),
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen [::]:80;": "",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "listen [::]:443 ssl;": "",
            "http {": "http { " + temporary,  # Debian's nginx has them in /var/lib/nginx
        }
        for old, new in (places | changes).items():
            assert configuration.count(old) == 1, old
            configuration = configuration.replace(old, new)
        (directory / "nginx.conf").write_text(configuration)
        with self.error_log.open("wb") as log:  # of what nginx says before it has read its own
            self.process = subprocess.Popen(
                [str(NGINX), "-c", directory / "nginx.conf", "-g", "daemon off;"],
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return as soon as nginx listens."""

        def listening() -> bool:
            assert self.process.poll() is None, self.error_log.read_text()
            return accepts(self.port)

        wait_until(listening, self.error_log.read_text)

    def service_log(self) -> str:
        """Return what the service has printed since this proxy was started."""
        return self.service.log.read_text()[self.since :]

    def stop(self) -> None:
        """End it, its workers first; if it does not end, kill them all."""
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """Return a client that sees the API under its prefix, and comes from this address."""
        transport = httpx.HTTPTransport(verify=self.tls, local_address=address)
        base_url = f"https://127.0.0.1:{self.port}/api"
        return httpx.Client(base_url=base_url, transport=transport, timeout=30)

    def connect(self) -> socket.socket:
        """Open a connection of the neighbour's, on which nothing is said yet."""
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=10, source_address=(NEIGHBOUR, 0)
        )

    def connect_tls(self) -> ssl.SSLSocket:
        return self.tls.wrap_socket(self.connect(), server_hostname="127.0.0.1")
