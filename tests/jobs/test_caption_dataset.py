"""The bulk job as a real process with Ray, from S3 to S3."""

import pyarrow.parquet as pq
import pytest

from glied.commands import caption_image
from glied.errors import UsageError
from tests.bulk.models import BAD, model_options
from tests.jobs.test_terminal import unexpected

CONFIG = "--config=configs/caption/demo.yaml"
LINES = [
    r"  [\w ./]+: .*",  # a caption
    r"60 of 60 images done \(58 ok, 2 rejected\).*",
    r"\d+ images this time, .*",
    r"seconds of all workers: .*",
    r"errors?: .*|rejected: .*|failed: .*",
    r"\d+ files left out.*",
    r"rows: .*",
]


@pytest.mark.timeout(300)
def test_s3_in_and_out(run_job, s3, models, photos):
    filesystem, variables = s3
    filesystem.put(str(photos), "photos/some where", recursive=True)
    places = ["--input.uri=s3://photos/some where", "--output.uri=s3://captions/run one"]
    options = [CONFIG, *places, *model_options(models), "--output.unit_size=16", "--resources.pools=split"]
    done = run_job("caption_dataset", *options, **variables)
    assert done.returncode == 0, done.stderr
    assert unexpected(done.stdout, LINES) == [], "the terminal shows only lines of the job"
    # On stderr: progress, and warnings with a time.
    assert unexpected(done.stderr, [r"\d\d:\d\d:\d\d (?:INFO|WARNING) .*"]) == []
    for word in ("oken", "redentials", "rogress bars", "ctor", "Traceback", "placement"):
        assert word not in done.stdout + done.stderr
    rows = []
    for path in filesystem.glob("captions/run one/captions/*.parquet"):
        rows += pq.read_table(path, filesystem=filesystem).to_pylist()
    assert len(rows) == len({row["id"] for row in rows}) == 60
    assert {row["id"]: row["error_kind"] for row in rows if row["status"] != "ok"} == BAD
    assert rows[0]["uri"].startswith("s3://photos/some where/")
    assert len(filesystem.glob("captions/run one/commits/*.json")) == 4

    again = run_job("caption_dataset", *options, **variables)
    assert again.returncode == 0, again.stderr
    assert "0 images this time" in again.stdout

    captions = {row["id"]: row["caption"] for row in rows}
    names = ["turned.jpg", "cmyk.jpg", "sub1/image 001.jpg"]
    image = run_job("caption_image", *(str(photos / name) for name in names), CONFIG, *model_options(models))
    assert image.returncode == 0, image.stderr
    assert image.stdout.splitlines() == [f"{photos / name}: {captions[name]}" for name in names]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input.uri=nowhere"], "input.uri nowhere: no such folder"),
        (["--input.uri=.", "--captions.beam=3"], "captions.beam"),
        (["--output.uri=pyproject.toml/out", "--input.uri=."], "output.uri pyproject.toml/out"),
    ],
)
@pytest.mark.timeout(120)
def test_mistakes_are_one_line_and_exit_2(run_job, models, options, message):
    done = run_job("caption_dataset", CONFIG, *model_options(models), "--input.extensions=[md]", *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.timeout(120)
def test_caption_image_reports_errors(run_job, models, photos):
    bad = run_job("caption_image", str(photos / "text.jpg"), CONFIG, *model_options(models))
    assert bad.returncode == 1
    assert "rejected, not_an_image" in bad.stderr
    missing = run_job("caption_image", "nowhere.jpg")
    assert (missing.returncode, missing.stderr) == (2, "error: nowhere.jpg: no such file\n")
    with pytest.raises(UsageError, match=f"{photos} is a folder: name its files"):
        caption_image.check([str(photos)])
