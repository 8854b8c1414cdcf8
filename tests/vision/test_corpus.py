"""Every file of the corpus gives the expected result, quickly and in bounded memory."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from glied.errors import ImageError
from glied.vision.images import decode
from tests.corpus import CORNERS, SIZE, Expectation, write_corpus

ROOT = Path(__file__).resolve().parents[2]
Corpus = tuple[Path, dict[str, Expectation]]

# VmHWM instead of getrusage's maximum, which a process inherits from its parent.
DECODE_BOMBS = """
import sys
from pathlib import Path
from glied.errors import ImageError
from glied.vision.images import decode

def peak_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10

folder = Path(sys.argv[1])
for path in folder.glob("rgb.*"):
    decode(path.read_bytes())
before = peak_mb()
for path in folder.glob("inflated*"):
    decode(path.read_bytes())
bombs = sorted(folder.glob("bomb*"))
for path in bombs:
    try:
        decode(path.read_bytes())
    except ImageError:
        continue
    raise AssertionError(f"{path} was decoded")
print(len(bombs), peak_mb() - before)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, write_corpus(folder)


def test_the_corpus_is_diverse_and_deterministic(corpus, tmp_path):
    folder, expectations = corpus
    started = time.process_time()
    assert write_corpus(tmp_path) == expectations
    assert time.process_time() - started < 8
    assert {path.name for path in folder.iterdir()} == expectations.keys()
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all((tmp_path / name).read_bytes() == data for name, data in contents.items())
    assert sum(map(len, contents.values())) < 3e6
    statuses = Counter(expectation.status for expectation in expectations.values())
    assert statuses["ok"] > 120
    assert statuses["rejected"] > 90
    assert statuses["any"] < 20


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:Image size:RuntimeWarning")
def test_each_file_is_decoded_or_refused_as_expected(corpus):
    folder, expectations = corpus
    wrong = []
    for name, expectation in expectations.items():
        found = outcome((folder / name).read_bytes())
        if not matches(found, expectation):
            wrong.append(f"{name}: {found} and not {expectation}")
    assert not wrong, "\n".join(wrong)


def outcome(data: bytes) -> Expectation:
    try:
        height, width, _ = decode(data).shape
    except ImageError as error:
        return Expectation("rejected", kind=error.kind)
    return Expectation("ok", size=(width, height))


def matches(found: Expectation, expected: Expectation) -> bool:
    if expected.status == "any":
        return True
    if expected.status == "rejected" and expected.kind is None:
        return found.status == "rejected"
    return found == expected


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_good_files_have_the_expected_pixels(corpus):
    """They are upright, in color or gray, and not mirrored, inverted or with swapped channels."""
    folder, expectations = corpus
    names = [name for name, expectation in expectations.items() if expectation.size == SIZE]
    wrong = {
        name: found for name in names if not is_the_picture(found := quarters((folder / name).read_bytes()))
    }
    assert not wrong


def quarters(data: bytes) -> np.ndarray:
    """Return the mean color in the middle of each quarter, [4, 3]."""
    pixels = decode(data).astype(float)
    width, height = SIZE
    middles = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return np.stack([pixels[y - 3 : y + 4, x - 3 : x + 4].mean((0, 1)) for y, x in middles]).round()


def is_the_picture(found: np.ndarray) -> bool:
    colors = np.array(list(CORNERS.values()), float)
    gray = np.repeat(colors @ [[0.299], [0.587], [0.114]], 3, axis=1)
    black_or_white = np.where(gray < 128, 0.0, 255.0)
    return any(np.abs(found - expected).max() < 32 for expected in (colors, gray, black_or_white))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:Image size:RuntimeWarning")
def test_errors_are_deterministic(corpus):
    """Errors are part of the rows, and a resumed run must equal an uninterrupted one."""
    folder, expectations = corpus
    for name, expectation in expectations.items():
        if expectation.status == "rejected":
            first, second = message(folder / name), message(folder / name)
            assert first == second
            assert " at 0x" not in first, name


def message(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        decode(path.read_bytes())
    return str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux")
def test_bombs_are_refused_without_allocating_their_memory(corpus):
    folder, expectations = corpus
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DECODE_BOMBS, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    count, megabytes = map(int, done.stdout.split())
    assert count == sum(name.startswith("bomb") for name in expectations) > 20
    assert megabytes < 200
