"""Conversion of synthetic weights in each published format to a checkpoint; other files are refused."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from glied import checkpoint
from glied.errors import UsageError
from glied.vision.extractors import array_unpickler, bottom_up, detectron_weights

ROOT = Path(__file__).resolve().parents[3]
CLASSES, ATTRIBUTES = ["cat", "dog", "table cloth"], ["red", "wooden"]
PREDICTOR = "roi_heads.box_predictor."
RPN = "proposal_generator.rpn_head."


def tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def background_last() -> dict[str, torch.Tensor]:
    """Return weights in the format of airsplay's conversion: one objectness per anchor, background last."""
    return {
        "backbone.stem.conv1.weight": tensor(4, 3, 7, 7, seed=1),
        "backbone.stem.conv1.norm.running_var": tensor(4, seed=2).abs(),
        RPN + "objectness_logits.weight": tensor(12, 5, 1, 1, seed=3),
        RPN + "objectness_logits.bias": tensor(12, seed=4),
        RPN + "anchor_deltas.weight": tensor(48, 5, 1, 1, seed=5),
        RPN + "anchor_deltas.bias": tensor(48, seed=6),
        PREDICTOR + "cls_score.weight": tensor(4, 8, seed=7),
        PREDICTOR + "cls_score.bias": tensor(4, seed=8),
        PREDICTOR + "bbox_pred.weight": tensor(12, 8, seed=9),
        PREDICTOR + "bbox_pred.bias": tensor(12, seed=10),
        PREDICTOR + "cls_embedding.weight": tensor(4, 2, seed=11),
        PREDICTOR + "fc_attr.weight": tensor(6, 10, seed=12),
        PREDICTOR + "fc_attr.bias": tensor(6, seed=13),
        PREDICTOR + "attr_score.weight": tensor(3, 6, seed=14),
        PREDICTOR + "attr_score.bias": tensor(3, seed=15),
    }


def background_first() -> dict[str, torch.Tensor]:
    """Return the same weights in the format of MILVLG's conversion: Caffe's layouts, with the anchors."""
    tensors = background_last()
    renamed = {"cls_embedding": "cls_embed", "fc_attr": "attr_linear1", "attr_score": "attr_linear2"}
    for name in list(tensors):
        for theirs, ours in renamed.items():
            if theirs in name:
                tensors[name.replace(theirs, ours)] = tensors.pop(name)
    for name in ("cls_score.weight", "cls_score.bias", "cls_embed.weight"):
        tensors[PREDICTOR + name] = tensors[PREDICTOR + name].roll(1, dims=0)
    for name in ("attr_linear2.weight", "attr_linear2.bias"):
        tensors[PREDICTOR + name] = tensors[PREDICTOR + name].roll(1, dims=0)
    for kind, rest in (("weight", (5, 1, 1)), ("bias", ())):
        boxes = tensors[PREDICTOR + f"bbox_pred.{kind}"]
        tensors[PREDICTOR + f"bbox_pred.{kind}"] = torch.cat([boxes[:4] + 1, boxes])
        found = tensors[RPN + f"objectness_logits.{kind}"]
        background = tensor(12, *rest, seed=16)
        tensors[RPN + f"objectness_logits.{kind}"] = torch.cat([background, found + background])
    tensors["proposal_generator.anchor_generator.cell_anchors.0"] = bottom_up.anchors() + 0.5
    tensors["backbone.stem.conv1.norm.num_batches_tracked"] = torch.tensor(7)
    return tensors


def write_pickle(path: Path, tensors: dict[str, torch.Tensor], *, old: bool) -> Path:
    arrays = {name: value.numpy() for name, value in tensors.items()}
    data = pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=2 if old else None)
    if old:  # as numpy 1 writes it
        data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(data)
    return path


def converted(path: Path, folder: Path, **change: list[str]) -> checkpoint.Checkpoint:
    words = {"classes": CLASSES, "attributes": ATTRIBUTES} | change
    detectron_weights.convert_file(str(path), str(folder), model="bottom-up-attention", **words)
    return checkpoint.load(str(folder))


def test_both_published_conversions_become_one_layout(tmp_path):
    old = converted(write_pickle(tmp_path / "a.pkl", background_last(), old=True), tmp_path / "a")
    new = converted(write_pickle(tmp_path / "b.pkl", background_last(), old=False), tmp_path / "b")
    torch.save({"model": background_first(), "iteration": 3}, tmp_path / "c.pth")
    first = converted(tmp_path / "c.pth", tmp_path / "c")
    assert old.tensors.keys() == new.tensors.keys() == first.tensors.keys()
    for name, value in old.tensors.items():
        torch.testing.assert_close(new.tensors[name], value, rtol=0, atol=0)
        if name != "anchors":
            torch.testing.assert_close(first.tensors[name], value)
    source = background_last()
    assert old.tensors[PREDICTOR + "cls_score.weight"].equal(source[PREDICTOR + "cls_score.weight"])
    none_first = source[PREDICTOR + "attr_score.bias"][[2, 0, 1]]
    assert old.tensors["attribute_head.logits.bias"].equal(none_first)
    assert old.tensors["anchors"].equal(bottom_up.anchors(by_ratio=False))
    assert first.tensors["anchors"].equal(bottom_up.anchors() + 0.5)
    assert first.metadata["classes"] == CLASSES
    assert first.metadata["source"]["name"] == "c.pth"
    assert len(first.metadata["source"]["sha256"]) == 64


def test_a_plain_detector_keeps_its_layout_and_loses_its_masks(tmp_path):
    tensors = {name: value for name, value in background_last().items() if "attr" not in name}
    del tensors[PREDICTOR + "cls_embedding.weight"]
    safetensors.torch.save_file(
        tensors | {"roi_heads.mask_head.deconv.weight": torch.zeros(1)}, tmp_path / "x.safetensors"
    )
    detectron_weights.convert_file(
        str(tmp_path / "x.safetensors"), str(tmp_path / "x"), model="Zoo.yaml", classes=CLASSES, attributes=[]
    )
    stored = checkpoint.load(str(tmp_path / "x"))
    assert stored.tensors.keys() == tensors.keys()
    assert stored.metadata["model"] == "Zoo.yaml"


def test_attributes_of_networks_trained_with_detectron2():
    tensors = background_last()
    prefix = "roi_heads.attribute_predictor."
    for theirs, ours in (("cls_embedding", "obj_embed"), ("fc_attr", "fc.0"), ("attr_score", "attr_score")):
        for kind in ("weight", "bias"):
            if PREDICTOR + f"{theirs}.{kind}" in tensors:
                tensors[prefix + f"{ours}.{kind}"] = tensors.pop(PREDICTOR + f"{theirs}.{kind}")
    found = detectron_weights.convert(tensors, caffe=False)
    assert (found.classes, found.attributes) == (3, 3)  # no "none" among these
    assert found.tensors["attribute_head.logits.bias"].equal(tensors[prefix + "attr_score.bias"])
    assert "anchors" not in found.tensors


class Harmful:
    """An object whose unpickling runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_pickle_that_runs_a_command_is_refused(tmp_path, suffix):
    evil = {"model": {**background_last(), "x": Harmful(tmp_path / "ran")}}
    path = tmp_path / f"evil{suffix}"
    if suffix == ".pkl":
        evil["model"] = {name: getattr(v, "numpy", lambda v=v: v)() for name, v in evil["model"].items()}
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path)
    with pytest.raises(UsageError, match=f"evil{suffix} does not hold weights"):
        array_unpickler.read_tensors(str(path))
    assert not (tmp_path / "ran").exists()


def test_the_child_process_reports_errors(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Harmful(tmp_path / "ran")}))
    with pytest.raises(UsageError, match=r"evil\.pkl does not hold weights: it refers to pathlib"):
        converted(tmp_path / "evil.pkl", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not hold weights"),
        (b"<html>", "does not hold weights"),
        (pickle.dumps(3), "no named arrays"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    for suffix in (".pkl", ".pth"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="does not hold weights") as caught:
            array_unpickler.read_tensors(str(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=message):
        array_unpickler.read_tensors(str(tmp_path / "file.pkl"))


def test_words_that_do_not_fit_are_refused(tmp_path):
    path = write_pickle(tmp_path / "a.pkl", background_last(), old=False)
    with pytest.raises(UsageError, match=r"classes: 2 names, but .* has 3 outputs"):
        converted(path, tmp_path / "out", classes=["cat", "dog"])
    with pytest.raises(UsageError, match=r"attributes: 0 names, but .* has 2 outputs"):
        converted(path, tmp_path / "out", attributes=[])
    with pytest.raises(UsageError, match="no such file"):
        converted(tmp_path / "nowhere.pkl", tmp_path / "out")
    with pytest.raises(UsageError, match="cls_score is missing"):
        detectron_weights.convert({"fc.weight": torch.zeros(1)}, caffe=True)


def test_the_job(tmp_path):
    write_pickle(tmp_path / "a.pkl", background_last(), old=True)
    (tmp_path / "objects.txt").write_text("Cat\ndog,hound\ntable cloth\n\n")
    (tmp_path / "attributes.txt").write_text("red\nwooden\n")
    options = [f"--weights={tmp_path / 'a.pkl'}", f"--classes={tmp_path / 'objects.txt'}"]
    options += ["--model=bottom-up-attention", f"--attributes={tmp_path / 'attributes.txt'}"]
    done = subprocess.run(
        [sys.executable, "jobs/convert_weights.py", *options, f"--out={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 classes, 2 attributes" in done.stdout
    assert json.loads((tmp_path / "out" / "model.json").read_text())["classes"] == CLASSES


def test_arrays_are_returned_from_the_child_process(tmp_path):
    path = write_pickle(tmp_path / "a.pkl", {"x.weight": torch.arange(6.0).reshape(2, 3)}, old=True)
    array_unpickler.to_safetensors(str(path), str(tmp_path / "out"))
    found = safetensors.torch.load_file(tmp_path / "out")
    np.testing.assert_array_equal(found["x.weight"], np.arange(6).reshape(2, 3))
