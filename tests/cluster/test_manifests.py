"""Every file under cluster/ is loaded and checked against its jobs, configs, images and metrics."""

import fnmatch
import importlib
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private import util

from glied.bulk.captioning import caption_pools
from glied.config import parse
from tests.test_configs import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
KUBERNETES = "1.34"
FIELDS = yaml.safe_load((Path(__file__).parent / "fields.yaml").read_text())
TYPES = {"str": str, "int": int, "bool": bool, "float": float}
JOBS = ["caption", "train-scst", "train-xe"]
Share = tuple[float, float]
"""CPUs and GPUs."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def every_document() -> list[dict[str, Any]]:
    return [document for path in sorted(KUBERAY.glob("*.yaml")) for document in documents(path.name)]


def load_cluster() -> dict[str, Any]:
    return documents("raycluster.yaml")[0]["spec"]


def templates(spec: Any) -> Iterator[dict[str, Any]]:
    """Yield all pod templates inside."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key in ("template", "submitterPodTemplate"):
                yield value
            else:
                yield from templates(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from templates(value)


TEMPLATES = [
    pytest.param(template, id=f"{document['metadata']['name']}-{number}")
    for document in every_document()
    if document["kind"] in ("RayCluster", "RayJob")
    for number, template in enumerate(templates(document["spec"]))
]


def test_every_file_is_covered() -> None:
    files = {str(path.relative_to(ROOT / "cluster")) for path in (ROOT / "cluster").rglob("*.*")}
    files = {name for name in files if "__pycache__" not in name}
    covered = {"local.py", "Dockerfile.dockerignore", "aws/cluster.yaml", "kuberay/grafana.json"}
    covered |= {f"kuberay/{name}.yaml" for name in (*JOBS, "raycluster", "support", "kustomization")}
    assert files == covered
    assert len(files) == 10


# ---- schemas


def check(value: Any, fact: Any, path: str) -> None:
    """Check a resource against the known fields."""
    if isinstance(fact, list) and isinstance(fact[0], dict):
        for number, one in enumerate(value):
            check(one, fact[0], f"{path}[{number}]")
    elif isinstance(fact, list):
        assert value in fact, path
    elif isinstance(fact, dict):
        assert {name[:-1] for name in fact if name.endswith("!")} <= value.keys(), path
        known = {name.rstrip("!"): inner for name, inner in fact.items()}
        for name, one in value.items():
            assert name in known, f"{path}.{name} is not a field"
            check(one, known[name], f"{path}.{name}")
    elif fact == "strings":
        assert all(isinstance(one, str) for one in (*value, *value.values())), path
    elif fact == "pod":
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": value.get("metadata", {}),
            "spec": value["spec"],
        }
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    elif fact != "*":
        assert type(value) is TYPES[fact], path


def test_resources_have_the_fields_of_their_kinds() -> None:
    kinds = []
    for document in every_document():
        kind = document["kind"]
        kinds.append(kind)
        if kind in FIELDS:
            check(document["spec"], FIELDS[kind], kind)
        elif kind != "Kustomization":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    counted = Counter(kinds)
    assert counted.pop("RayJob") == 3
    assert counted.pop("PodDisruptionBudget") == 2
    assert counted == dict.fromkeys(
        ("Kustomization", "NetworkPolicy", "PodMonitor", "RayCluster", "ServiceAccount"), 1
    )


def test_a_field_that_does_not_exist_is_refused() -> None:
    cluster = load_cluster()
    cluster["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(AssertionError, match="maxReplica is not a field"):
        check(cluster, FIELDS["RayCluster"], "RayCluster")
    cluster = load_cluster()
    cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePolicy"):
        check(cluster, FIELDS["RayCluster"], "RayCluster")


def test_kustomization_names_files_that_exist() -> None:
    kustomization = documents("kustomization.yaml")[0]
    named = [*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]]
    assert sorted(named) == ["grafana.json", "raycluster.yaml", "support.yaml"]
    assert all((KUBERAY / name).is_file() for name in named)


# ---- jobs and configs of the manifests


def entrypoint(name: str) -> tuple[str, Any]:
    """Return the name of a RayJob's job, and its parsed config."""
    program, script, *options = shlex.split(documents(f"{name}.yaml")[0]["spec"]["entrypoint"])
    assert program == "python"
    assert (ROOT / script.removeprefix("/app/")).is_file(), "jobs/ is /app/jobs in the image"
    config = Path(options[options.index("--config") + 1].removeprefix("/app/"))
    module, class_name = CONFIGS[config.parent.name]
    config_class = getattr(importlib.import_module(module), class_name)
    source = inspect.getsource(importlib.import_module(f"glied.commands.{Path(script).stem}"))
    parsers = ["parse_captioning("] if class_name == "CaptionDatasetConfig" else []
    assert any(one in source for one in [f"parse({class_name}", *parsers]), (
        "the config belongs to another job"
    )
    return Path(script).stem, parse(config_class, [one.replace("/app/", f"{ROOT}/") for one in options])


def placed(
    actors: Sequence[tuple[float, float]], pods: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Put each actor into the first pod with enough CPUs and GPUs; return what is left of the pods."""
    left = list(pods)
    for cpus, gpus in actors:
        holder = next((i for i, pod in enumerate(left) if pod[0] >= cpus and pod[1] >= gpus), None)
        assert holder is not None, f"no worker has {cpus} CPUs and {gpus} GPUs left"
        left[holder] = (left[holder][0] - cpus, left[holder][1] - gpus)
    return left


def pods_at_most() -> list[Share]:
    pods: list[Share] = []
    for group in load_cluster()["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        limits = resources["limits"]
        pods += [(float(limits["cpu"]), float(limits["nvidia.com/gpu"]))] * group["maxReplicas"]
    return pods


@pytest.mark.parametrize("name", JOBS)
def test_jobs_fit_the_workers_and_leave_room_for_data(name: str) -> None:
    job, config = entrypoint(name)
    if job == "caption_dataset":
        actors = [(pool.cpus, pool.gpus) for pool in caption_pools(config) for _ in range(pool.workers)]
        on_gpu, room = config.regions.device == "cuda", config.resources.fetch.cpus
        assert config.resources.worker.decoders <= config.resources.worker.cpus
    else:
        trainer = config.trainer
        on_gpu, room = trainer.device == "cuda", 1.0
        actors = [(trainer.resources.cpus_per_worker, float(on_gpu))] * trainer.workers
    assert on_gpu
    assert all(gpus > 0 for _, gpus in actors)
    used = placed(actors, pods_at_most())[: len(actors)]
    assert all(cpus >= room for cpus, _ in used), "fetch and read tasks need CPUs on the nodes of the actors"


@pytest.mark.parametrize("name", JOBS)
def test_jobs_read_and_write_object_storage_only(name: str) -> None:
    options = shlex.split(documents(f"{name}.yaml")[0]["spec"]["entrypoint"])
    outputs = ("--output.uri", "--trainer.output")
    places = [value for key, value in itertools.pairwise(options) if key in outputs]
    assert places
    assert all(place.startswith("s3://") for place in places)
    _, config = entrypoint(name)
    local = re.findall(r"'(?:runs|data)/[^']*'", str(config))
    assert local == [], "a local folder"


def test_jobs_select_the_cluster() -> None:
    name = documents("raycluster.yaml")[0]["metadata"]["name"]
    for job in JOBS:
        spec = documents(f"{job}.yaml")[0]["spec"]
        assert spec["clusterSelector"] == {"ray.io/cluster": name}
        assert not spec["shutdownAfterJobFinishes"], "the job must not own the cluster"


# ---- images and versions


def dockerfile() -> str:
    return (ROOT / "cluster" / "Dockerfile").read_text()


def test_images_are_built_by_the_dockerfile() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f'image.version="{version}"' in dockerfile()
    targets = set(re.findall(r"^FROM runtime AS (\w+)$", dockerfile(), re.MULTILINE))
    assert targets == {"cpu", "cuda"}
    text = "\n".join(path.read_text() for path in [*KUBERAY.glob("*.yaml"), ROOT / "cluster/Dockerfile"])
    images = set(re.findall(r"registry\.example\.com/\S+", text))
    assert images == {f"registry.example.com/glied:{version}-{target}" for target in targets}
    for group in load_cluster()["workerGroupSpecs"]:
        assert group["template"]["spec"]["containers"][0]["image"].endswith("-cuda")


def test_ray_is_the_version_that_the_constraints_pin() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert load_cluster()["rayVersion"] == pinned


def test_dockerfile_is_clean() -> None:
    lint = [str(Path(sys.executable).with_name("hadolint")), str(ROOT / "cluster" / "Dockerfile")]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_dockerfile_copies_existing_files_and_runs_without_root() -> None:
    ignore = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(), re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)
    assert "-c constraints.txt" in dockerfile()
    assert re.findall(r"^USER (.*)$", dockerfile(), re.MULTILINE) == ["1000:1000"]


# ---- safety


@pytest.mark.parametrize("template", TEMPLATES)
def test_pods_are_locked_down(template: dict[str, Any]) -> None:
    spec = template["spec"]
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["runAsNonRoot"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["tmp"] == "/tmp", "for Ray's sessions; nothing else is writable"
        assert mounts.keys() == {volume["name"] for volume in spec["volumes"]}
        home = next(one["value"] for one in container["env"] if one["name"] == "HOME")
        assert home in mounts.values()


def test_ray_pods_have_probes_credentials_by_reference_and_room_for_objects() -> None:
    cluster = load_cluster()
    assert cluster["authOptions"]["mode"] == "token"
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["path"] in ("/api/gcs_healthz", "/api/local_raylet_healthz")
        assert container["envFrom"] == [{"secretRef": {"name": "glied-s3"}}]
        memory = next(one for one in spec["volumes"] if one["name"] == "shared-memory")["emptyDir"]
        assert memory["medium"] == "Memory"
        total = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
        assert 0.3 * total <= int(memory["sizeLimit"].removesuffix("Gi")) < total, "Ray uses 30 % of it"
    assert not re.search(
        r"AWS_SECRET_ACCESS_KEY: |AKIA", "".join(path.read_text() for path in KUBERAY.iterdir())
    )


def test_workers_scale_from_zero_and_the_head_runs_no_tasks() -> None:
    cluster = load_cluster()
    assert cluster["enableInTreeAutoscaling"]
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    capacities = {}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0
        selector = group["template"]["spec"]["nodeSelector"]
        capacities[group["groupName"]] = selector["karpenter.sh/capacity-type"]
    assert capacities == {"gpu-spot": "spot", "gpu-on-demand": "on-demand"}


# ---- metrics


def test_prometheus_scrapes_the_port_that_ray_exports() -> None:
    monitor = next(one for one in documents("support.yaml") if one["kind"] == "PodMonitor")["spec"]
    cluster = load_cluster()
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        ports = group["template"]["spec"]["containers"][0]["ports"]
        numbers = {port["name"]: str(port["containerPort"]) for port in ports}
        port = monitor["podMetricsEndpoints"][0]["port"]
        assert numbers[port] == group["rayStartParams"]["metrics-export-port"]


def test_dashboard_uses_metrics_of_the_jobs() -> None:
    source = (ROOT / "glied/bulk/ray/metrics.py").read_text()
    made = dict(re.findall(r'metrics\.(Counter|Histogram)\(\s*"(\w+)"', source))
    names = {f"ray_{made['Counter']}_total"}
    names |= {f"ray_{made['Histogram']}_{part}" for part in ("bucket", "sum", "count")}
    dashboard = json.loads((KUBERAY / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_\w+", target["expr"])
    }
    assert asked <= names
    assert {name.rsplit("_", 1)[0] for name in asked} == {"ray_glied_images", "ray_glied_chunk_seconds"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


# ---- virtual machines


def load_aws() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / "aws" / "cluster.yaml").read_text())


def test_launcher_config_passes_the_check_of_ray() -> None:
    util.validate_config(util.prepare_config(load_aws()))
    broken = load_aws() | {"worker_types": {}}
    with pytest.raises(Exception, match="worker_types"):
        util.validate_config(util.prepare_config(broken))


def test_machines_scale_from_zero_on_spot_with_a_role() -> None:
    config = load_aws()
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    for name, node in types.items():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("glied-")
        assert name == config["head_node_type"] or node["min_workers"] == 0
    assert types["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "GPU" not in types[config["head_node_type"]]["resources"]
    assert sum(node.get("max_workers", 0) for node in types.values()) == config["max_workers"]


def test_machines_get_the_whole_package() -> None:
    """rsync excludes a name in every folder unless it begins with a slash."""
    everywhere = [name for name in load_aws()["rsync_exclude"] if not name.startswith("/")]
    parts = {part for top in ("glied", "jobs", "configs") for path in (ROOT / top).rglob("*")
             for part in path.relative_to(ROOT).parts}  # fmt: skip
    assert {"data", "demo"} <= parts
    assert [part for part in parts for name in everywhere if fnmatch.fnmatch(part, name)] == []


def test_machines_install_this_project_and_require_a_token() -> None:
    config = load_aws()
    (folder,) = [path for path, source in config["file_mounts"].items() if source == "."]
    install = config["setup_commands"][-1]
    assert install.endswith(Path(folder).name)
    assert "constraints.txt" in install
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert any(path.endswith("/.ray/auth_token") for path in config["file_mounts"])
