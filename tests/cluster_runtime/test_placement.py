"""The arithmetic of whether a cluster has room; tests/cluster/test_placement.py tests the waiting."""

from glied.cluster_runtime.placement import fitting, request

HEAD = {"CPU": 0.0, "memory": 8e9, "node:__internal_head__": 1.0}
FETCH = request(cpus=0.5)


def gpu_node(cpus: float = 8, gpus: float = 1, kind: str = "L4") -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, "memory": 32e9, f"accelerator_type:{kind}": 1.0}


def test_a_resource_request_contains_only_requested_resources() -> None:
    assert request(cpus=0.5) == {"CPU": 0.5}
    assert request(cpus=4, gpus=0.25, memory=10, accelerator="L4") == {
        "CPU": 4,
        "GPU": 0.25,
        "memory": 10,
        "accelerator_type:L4": 0.001,
    }


def test_workers_fill_the_gpus_of_a_cluster_whose_head_has_none() -> None:
    worker = request(cpus=4, gpus=1)
    assert fitting([(worker, 8)], FETCH, [HEAD]) == [0]
    assert fitting([(worker, 8)], FETCH, [HEAD, gpu_node(), gpu_node(gpus=2)]) == [3]
    assert fitting([(worker, 2)], FETCH, [HEAD, gpu_node(), gpu_node(gpus=2)]) == [2]


def test_fractional_requests_share_a_gpu_but_never_span_two() -> None:
    assert fitting([(request(cpus=1, gpus=0.25), 100)], FETCH, [gpu_node()]) == [4]
    assert fitting([(request(cpus=1, gpus=0.3), 100)], FETCH, [gpu_node()] * 2) == [6]
    assert fitting([(request(cpus=1, gpus=0.6), 100)], FETCH, [gpu_node(gpus=2)]) == [2]
    assert fitting([(request(cpus=1, gpus=0.1), 100)], FETCH, [gpu_node(cpus=16)]) == [10]


def test_an_accelerator_and_memory_must_be_on_one_node() -> None:
    nodes = [gpu_node(kind="L4"), gpu_node(kind="H100")]
    assert fitting([(request(cpus=1, gpus=1, accelerator="H100"), 9)], FETCH, nodes) == [1]
    assert fitting([(request(cpus=1, gpus=1, accelerator="A10G"), 9)], FETCH, nodes) == [0]
    assert fitting([(request(cpus=1, memory=20 << 30), 9)], FETCH, nodes) == [2]


def test_there_is_room_for_fetching_beside_the_workers() -> None:
    worker = request(cpus=4)
    assert fitting([(worker, 9)], FETCH, [{"CPU": 8.0}]) == [1]
    assert fitting([(worker, 9)], FETCH, [{"CPU": 8.0}, {"CPU": 0.5}]) == [2]
    assert fitting([(request(cpus=8, gpus=1), 9)], FETCH, [gpu_node(), {"CPU": 1.0}]) == [1]


def test_pools_grow_together() -> None:
    regions, captions = request(cpus=1, gpus=1), request(cpus=1, gpus=0.5)
    assert fitting([(regions, 8), (captions, 2)], FETCH, [gpu_node(gpus=4)]) == [3, 2]
    assert fitting([(regions, 4), (captions, 8)], FETCH, [gpu_node(gpus=4)]) == [2, 4]
