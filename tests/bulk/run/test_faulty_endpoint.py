"""A thousand images captioned by a server that fails in every way."""

import logging
from pathlib import Path

import pytest

from glied.bulk.run import bulk_run
from glied.bulk.run.committed_rows import read_rows
from tests.bulk.endpoint_runs import endpoint_config, run_captioning
from tests.captioner.engines.chat_server import serve
from tests.captioner.engines.faults import FAULTS, check_rows, numbered_images, server_with_every_fault

COUNT = 1000
SECRET = "sk-verysecret123"


@pytest.mark.timeout(300)
def test_a_thousand_images_have_a_row_each_and_all_tokens_are_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    photos, out = numbered_images(tmp_path / "in", COUNT), tmp_path / "out"
    server, faults = server_with_every_fault()
    with serve(server):
        options = [f"--input.uri={photos}", f"--output.uri={out}", "--output.unit_size=500"]
        options += ["--resources.chunk.images=500", "--resources.worker.batch_size=500"]
        options += ["--captioner.requests.timeout_s=3", "--captioner.requests.concurrency=128"]
        options += ["--captioner.cost.prompt_price=1", "--captioner.cost.completion_price=2"]
        summary = run_captioning(endpoint_config(server, *options))
    assert bulk_run.exit_code(summary) == 0
    check_rows(list(read_rows(str(out))), COUNT)
    assert summary.statuses == {"ok": 900, "rejected": 100}
    assert summary.errors == {"refused": 100}
    assert all(faults.behaviors[name] >= 100 for name in FAULTS)
    used, tokens = summary.usage, faults.prompt_tokens()
    assert (used["requests"], used["retries"]) == (faults.behaviors.total(), faults.retries())
    assert (used["prompt_tokens"], used["completion_tokens"]) == (tokens, tokens // 10)
    assert used["cost"] == pytest.approx((tokens * 1 + tokens // 10 * 2) / 1e6)
    assert set(server.keys) == {f"Bearer {SECRET}"}
    check_secrets(out, caplog.text)


def check_secrets(out: Path, log: str) -> None:
    """Check that neither the key nor image data stands in a run folder or a log."""
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file()) + log.encode()
    assert b"endpoint" in written
    for secret in (SECRET.encode(), b"base64", b"/9j/"):  # JPEG in base64 begins with the last
        assert secret not in written
