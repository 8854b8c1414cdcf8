"""Run a Ray cluster on this machine, with the head and each worker node as separate processes.

python cluster/local.py --workers 2

The cluster listens on the loopback interface only and requires a token; it has its own folder, ports and
token. The script prints the environment variables that `ray job submit` needs, and Ctrl-C stops the cluster.
It stops only its own processes, so other Ray clusters on the machine keep running; `ray stop` would stop
them.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from glied.config import parse, run
from glied.errors import JobError, UsageError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
STARTED = "Ray runtime started"
START_S = 120.0
"""Maximum time for a node to start, in seconds."""
START_ATTEMPTS = 3
"""Number of attempts to start a node: Ray's limit of 30 seconds is short on a busy machine."""
END_S = 5.0
"""Time in which processes must exit before they are killed, in seconds."""

# `ray start` replaces the loopback address by another address of the machine, and the setting that prevents
# this makes it refuse to start workers. So the address is patched here, and the setting is passed on to the
# processes that it starts. The kernel kills these processes if this one dies.
LAUNCH = f"""
import os, sys
from ray._private import services, utils
from ray.scripts.scripts import main
if sys.platform == "linux":
    utils.set_kill_on_parent_death_linux()
services.get_node_ip_address = lambda *_: "{LOOPBACK}"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
main()
"""
LAUNCHER = [sys.executable, "-c", LAUNCH, "start", "--block"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Size of the cluster."""

    workers: int = 2
    """Number of worker nodes; the head is another node."""
    cpus: int = 3
    """Logical CPUs of each worker; the head has none, so that it runs drivers only."""
    gpus: int = 0
    """Simulated GPUs of each worker."""
    object_store_mb: int = 128
    """Object store of each node in shared memory, in MiB."""

    def __post_init__(self) -> None:
        """Check the minimum of each number."""
        for name, least in (("workers", 0), ("cpus", 1), ("gpus", 0), ("object_store_mb", 80)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}: {getattr(self, name)} is not at least {least}")


class Node:
    """The processes of a node: `ray start --block` and its child processes."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start the node.

        Raises:
            JobError: the node does not start.
        """
        self.name = name
        self.log = folder / f"{name}.log"
        for attempt in range(1, START_ATTEMPTS + 1):
            with self.log.open("w") as out:
                self.process = psutil.Popen(
                    [*LAUNCHER, "--temp-dir", str(folder / name), *command],
                    env=dict(environment),
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            try:
                if self._starts():
                    return
            except BaseException:
                self.kill()
                raise
            self.kill()
            log.info("%s did not start, attempt %d of %d", name, attempt, START_ATTEMPTS)
        raise JobError(f"{name} does not start: {self._last_line()}")

    def _starts(self) -> bool:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if STARTED in self.log.read_text():
                return True
            time.sleep(0.1)
        return False

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text().splitlines() if line.strip()]
        return lines[-1].strip() if lines else "its log is empty"

    def processes(self) -> list[psutil.Process]:
        """Return the running processes of the node, including workers and drivers."""
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def kill(self) -> None:
        """Kill all processes of the node, as when a machine is lost."""
        _kill(self.processes())
        self.process.wait()


class LocalCluster:
    """A local Ray cluster, to be used in a `with` statement.

    Attributes:
        address: URL for submitting jobs.
        environment: environment variables of processes that submit jobs.
        workers: worker nodes.
    """

    def __init__(self, config: Config, environment: Mapping[str, str] = os.environ) -> None:
        """Choose the folder, ports and token; nodes and jobs inherit `environment`."""
        self.config = config
        self.folder = Path(
            tempfile.mkdtemp(prefix="glied-")
        )  # short: socket paths are limited to 107 characters
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self._ports = _free_ports(4 + config.workers)
        self.address = f"http://{LOOPBACK}:{self._ports[1]}"
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.environment = dict(environment) | access | {"RAY_API_SERVER_ADDRESS": self.address}
        self.environment.pop("RAY_AUTH_TOKEN", None)
        self._node_environment = _for_nodes(dict(environment) | access)
        self.workers: list[Node] = []
        self.head: Node | None = None

    def __enter__(self) -> "LocalCluster":
        """Start the head and the workers one after another, because they compete for the CPU.

        Raises:
            JobError: a node does not start.
        """
        gcs, dashboard, client, *agents = map(str, self._ports)
        at = ["--node-ip-address", LOOPBACK, "--min-worker-port", "0", "--max-worker-port", "0"]
        at += ["--object-store-memory", str(self.config.object_store_mb << 20)]
        head = ["--head", "--port", gcs, "--dashboard-host", LOOPBACK, "--dashboard-port", dashboard]
        head += ["--ray-client-server-port", client, "--num-cpus", "0", "--num-gpus", "0"]
        worker = ["--address", f"{LOOPBACK}:{gcs}", "--num-cpus", str(self.config.cpus)]
        worker += ["--num-gpus", str(self.config.gpus)]
        try:
            self.head = self._node("head", agents[0], [*head, *at])
            for number, agent in enumerate(agents[1:], start=1):
                self.workers.append(self._node(f"worker-{number}", agent, [*worker, *at]))
        except BaseException:
            self.close()
            raise
        return self

    def _node(self, name: str, agent_port: str, command: list[str]) -> Node:
        command = [*command, "--dashboard-agent-listen-port", agent_port]
        return Node(name, command, self._node_environment, self.folder)

    def processes(self) -> list[psutil.Process]:
        """Return the running processes of the cluster."""
        nodes = [*self.workers, *([self.head] if self.head else [])]
        return [process for node in nodes for process in node.processes()]

    def __exit__(self, *_: object) -> None:
        """Close the cluster."""
        self.close()

    def close(self) -> None:
        """Stop the cluster's processes and delete its folder."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=END_S)
        _kill(alive)
        _remove(self.folder)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=END_S)


def _remove(folder: Path) -> None:
    """Delete a folder, again if an exiting process has written into it."""
    deadline = time.monotonic() + END_S
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Return free ports, so that the cluster does not collide with other clusters on this machine."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _for_nodes(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of the nodes: this Python first, and only the code that a job uploads."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    nodes = environment | {"PATH": programs, "RAY_USAGE_STATS_ENABLED": "0"}
    nodes |= {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    # The last variable is set in a process that has started Ray itself; the launcher sets it when needed.
    for name in ("PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        nodes.pop(name, None)
    return nodes


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run the cluster until it is interrupted."""
    config = parse(Config, description=__doc__)
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt), LocalCluster(config) as cluster:
        names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS")
        print("\n".join(f"export {name}={cluster.environment[name]}" for name in names))
        print("ray job submit --working-dir . -- python jobs/caption_dataset.py ...", flush=True)
        while True:
            signal.pause()
    return 0


if __name__ == "__main__":
    run(main)
