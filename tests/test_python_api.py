"""The Python API: the snippets of its page run, and the captions equal those of the bulk job."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import glied
from glied import Captioner, checkpoint
from glied.api import captioner_names
from glied.errors import ImageError, UsageError

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ROOT / "docs" / "images" / "photographs"
WREN, DOGS = PHOTOGRAPHS / "wren.jpg", PHOTOGRAPHS / "two-dogs.jpg"


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.load("photographs")


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, glied; assert 'Captioner' in dir(glied); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "PIL", "glied.api"} & set(done.stdout.split())
    with pytest.raises(AttributeError, match="module 'glied' has no attribute 'Captoiner'"):
        glied.Captoiner  # noqa: B018


def test_the_snippets_of_the_page_run(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "photo.jpg").symlink_to(WREN)
    (tmp_path / "other.jpg").symlink_to(DOGS)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python_api.md").read_text(), re.DOTALL)
    for snippet in snippets:
        exec(snippet, names)
    printed = capsys.readouterr().out.splitlines()
    assert len(snippets) == 5
    assert "bird" in printed[0]
    assert printed[1:3] == ["not_an_image", printed[0]]
    assert len(names["more"].caption(WREN).alternatives) == 8


def test_an_image_has_one_caption_in_every_form(captioner: Captioner) -> None:
    file = captioner.caption(str(WREN))
    assert "bird" in file.text
    assert str(file) == file.text
    assert file.alternatives[0] == (file.text, file.log_probability)
    assert len(file.alternatives) == 3
    assert 0 < file.familiarity <= 1
    assert "bird" in dict(file.attributes)
    with Image.open(WREN) as image:
        forms = [WREN, WREN.read_bytes(), image, np.asarray(image), image.convert("RGBA")]
        assert captioner.caption(forms) == [file] * len(forms)


def test_images_of_all_pillow_modes_equal_decoded_files(captioner: Captioner) -> None:
    """Orientation is applied, transparency is put on white, and modes that PNG lacks are converted."""
    with Image.open(WREN) as image:
        image.load()
    expected = captioner.caption(image)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    assert captioner.caption(turned) == expected
    clear = Image.new("RGBA", image.size, (255, 0, 0, 0))
    white = Image.new("RGB", image.size, "white")
    assert captioner.caption(clear) == captioner.caption(white)
    assert captioner.caption(image.convert("CMYK")).text
    assert captioner.caption(image.convert("F")).text


def test_an_item_that_is_not_an_image_is_named(captioner: Captioner) -> None:
    with pytest.raises(ImageError, match=r"^not_an_image: image 1: the content is "):
        captioner.caption([WREN, b"no image"])
    with pytest.raises(ImageError, match=r"^not_an_image: the content is "):
        captioner.caption(b"no image")
    with pytest.raises(FileNotFoundError):
        captioner.caption("nothing.jpg")
    assert captioner.caption([]) == []


def test_names_of_configs_and_checkpoints(tmp_path, monkeypatch) -> None:
    """Names of shipped variants, of configs, and of the user's own captioner with the same regions."""
    monkeypatch.chdir(tmp_path)
    scene = ROOT / "docs" / "images" / "test-000130.jpg"
    cider = Captioner.load("demo/glied_cider", beam_size=1)
    assert cider.config.captioner.checkpoint == "glied/weights/demo/glied_cider"
    assert cider.config.decoding.n_best == 1, "no more than beams"
    caption = cider.caption(scene)
    assert "beach" in caption.text
    (tmp_path / "mine").symlink_to(ROOT / "glied" / "weights" / "demo" / "glied_cider")
    assert Captioner.load("mine", beam_size=1).caption(scene) == caption
    assert Captioner.load("caption/demo.yaml").config.captioner.checkpoint == "glied/weights/demo/glied"
    assert {"photographs", "demo", "photographs/glied", "demo/base"} <= set(captioner_names())


def test_errors_name_the_argument(tmp_path) -> None:
    with pytest.raises(
        UsageError, match=r"no checkpoint in nobody: .*; captioners that ship: photographs, demo"
    ):
        Captioner.load("nobody")
    with pytest.raises(UsageError, match=r"nothing\.yaml: no such file"):
        Captioner.load("nothing.yaml")
    with pytest.raises(UsageError, match="n_best: 4 is not between 1 and beam_size"):
        Captioner.load("photographs", beam_size=2, n_best=4)
    with pytest.raises(UsageError, match="beam_size: 0"):
        Captioner.load("photographs", beam_size=0)
    with pytest.raises(UsageError, match=r"regions\.kind precomputed"):
        Captioner.load("caption/coco_features.yaml")
    checkpoint.save(str(tmp_path), {}, {"kind": "captioner"}, extractor={"kind": "another"})
    with pytest.raises(UsageError, match="was trained on regions that no config that ships finds"):
        Captioner.load(tmp_path)
