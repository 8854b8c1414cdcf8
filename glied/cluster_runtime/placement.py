"""Resource requests: whether a cluster has room for them, for how many, and how to wait for it.

A request is what one process asks of one node, as Ray counts it: {"CPU": 4.0, "GPU": 1.0}. It is compared
with the nodes' logical resources, never with the driver's machine, which may be a head without GPUs. Ray is
imported where it is used.
"""

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from glied.errors import JobError

log = logging.getLogger(__name__)

Resources = Mapping[str, float]
"""Amounts by the name of the resource: what a process requests, or what a node has."""

PATIENCE_S = 600.0
"""Default wait for nodes that an autoscaler may add, and for what other jobs hold."""
GRACE_S = 20.0
"""Default wait where nothing adds such a node, but those of the cluster may still be joining."""
LOG_S = 30.0
ACCELERATOR = "accelerator_type:"
MOST_NODES = 1_000
"""Nodes of a group that are counted; an autoscaler may have no limit."""


def request(*, cpus: float, gpus: float = 0.0, memory: int = 0, accelerator: str | None = None) -> Resources:
    """Resources as Ray names them; `memory` in bytes, `accelerator` as in ray.util.accelerators ("L4")."""
    amounts = {"CPU": cpus, "GPU": gpus, "memory": memory}
    if accelerator:
        amounts[ACCELERATOR + accelerator] = 0.001  # what Ray asks for: the node has one of it
    return {name: amount for name, amount in amounts.items() if amount}


def fitting(
    wanted: Sequence[tuple[Resources, int]], spare: Resources, nodes: Iterable[Resources]
) -> list[int]:
    """How many processes of each kind fit onto the nodes beside one that asks for `spare`.

    The kinds grow in step, so that one that comes first leaves room for those after it.

    Args:
        wanted: requests, and how many of each at most.
        spare: what must stay free, on a node without GPUs if possible.
        nodes: what each node has.
    """
    left = sorted((dict(node) for node in nodes), key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    counts = [0] * len(wanted)
    if not _take(spare, left):
        return counts
    growing = list(range(len(wanted)))
    while growing:
        kind = min(growing, key=lambda kind: counts[kind] / wanted[kind][1])
        if counts[kind] < wanted[kind][1] and _take(wanted[kind][0], left):
            counts[kind] += 1
        else:
            growing.remove(kind)
    return counts


def _take(wanted: Resources, left: list[dict[str, float]]) -> bool:
    """Take a request from the first node that has it."""
    amounts = {name: _whole_gpus(amount) if name == "GPU" else amount for name, amount in wanted.items()}
    for node in left:
        if all(node.get(name, 0.0) - amount > -1e-6 for name, amount in amounts.items()):
            for name, amount in amounts.items():
                node[name] -= amount
            return True
    return False


def _whole_gpus(amount: float) -> float:
    """What a fraction of a GPU costs: 0.6 takes a whole one, since no process is on two."""
    return amount if amount >= 1 or not amount else 1 / math.floor(1 / amount + 1e-6)


def _all_fit(requests: Sequence[Resources], nodes: Iterable[Resources]) -> bool:
    left = [dict(node) for node in nodes]
    largest_first = sorted(requests, key=lambda one: (one.get("GPU", 0), one.get("CPU", 0)), reverse=True)
    return all(_take(one, left) for one in largest_first)


def nodes() -> list[Resources]:
    """What each node of the cluster has, whoever uses it."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def possible_nodes() -> list[Resources]:
    """The nodes that an autoscaler may bring the cluster to; none where there is no autoscaler."""
    from ray._private.state import state  # Ray (2.60) has no public way; Ray Train asks the same

    config = state.get_cluster_config()
    groups = config.node_group_configs if config else []
    return [
        dict(group.resources)
        for group in groups
        for _ in range(MOST_NODES if group.max_count < 0 else min(group.max_count, MOST_NODES))
    ]


def wait_for(requests: Sequence[Resources], *, wait_s: float | None, key: str) -> None:
    """Wait until the cluster has room for all requests at once; an autoscaler learns what is missing.

    Args:
        requests: all of them are reserved together, and let go of again.
        wait_s: longest wait; None is `PATIENCE_S` where the room may come, else `GRACE_S`, and nothing on a
            cluster that this process has started.
        key: the config key of `wait_s`, for the message.

    Raises:
        JobError: there is no room in time; the message says what there is.
    """
    import ray.util

    start = logged = time.monotonic()
    group = ray.util.placement_group([dict(one) for one in requests])
    try:
        while not group.wait(1):
            now = time.monotonic()
            if now - start >= (_default_wait_s(requests) if wait_s is None else wait_s):
                raise JobError(_no_room(requests, now - start, key))
            if now - logged >= LOG_S:
                logged = now
                names = {name for one in requests for name in one}
                log.info("waiting for room for %s: %.0f s so far", _listed(requests, names), now - start)
    finally:
        ray.util.remove_placement_group(group)


def _default_wait_s(requests: Sequence[Resources]) -> float:
    if _all_fit(requests, nodes()) or _all_fit(requests, possible_nodes()):
        return PATIENCE_S
    return GRACE_S if os.environ.get("RAY_ADDRESS") else 0.0


def _no_room(requests: Sequence[Resources], seconds: float, key: str) -> str:
    there, growth = nodes(), possible_nodes()
    names = {name for one in requests for name in one}
    if _all_fit(requests, there):
        reason = "other jobs hold what is missing"
    elif _all_fit(requests, growth):
        reason = "its autoscaler may add nodes, but none came: see its log"
    elif growth:
        reason = f"its autoscaler adds none that would do, only {_listed(growth, names)}"
    else:
        reason = "nothing adds nodes: ask for less, or start such nodes"
    return (
        f"the cluster has no room for {_listed(requests, names)} after {seconds:.0f} s ({key}): "
        f"it has {_listed(there, names)}; {reason}"
    )


def _listed(requests: Iterable[Resources], names: Collection[str]) -> str:
    """The requests in words, equal ones together; only what has one of the names."""
    counted = Counter(_text(one, names) for one in requests)
    return " and ".join(
        f"{count} x ({text})" if count > 1 else f"({text})" for text, count in counted.items()
    )


def _text(one: Resources, names: Collection[str]) -> str:
    parts = [f"{one.get(name, 0):g} {name}" for name in ("CPU", "GPU") if name == "CPU" or name in names]
    parts += [name.removeprefix(ACCELERATOR) for name in sorted(one) if name.startswith(ACCELERATOR)]
    if "memory" in names:
        parts.append(f"{one.get('memory', 0) / 1e9:.1f} GB")
    return ", ".join(parts)
