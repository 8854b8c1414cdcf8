"""moto's S3 server over HTTP, in its own environment because its botocore conflicts with aiobotocore."""

import fcntl
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-moto"
REQUIREMENT = "moto[server]"


def install() -> Path:
    """Install the server once, and return its program."""
    program = ENVIRONMENT / "bin" / "moto_server"
    if program.exists():
        return program
    with (Path(tempfile.gettempdir()) / "glied-moto.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of pytest-xdist may install it at the same time
        if not program.exists():
            _install()
    return program


def _install() -> None:
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", REQUIREMENT], check=True)


def start() -> tuple[subprocess.Popen, str]:
    """Start a server on a free loopback port, and return its process and endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [str(install()), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
            return server, endpoint
        except OSError:
            assert server.poll() is None, "moto_server exited"
            time.sleep(0.1)
    server.kill()
    raise TimeoutError("moto_server does not answer")
