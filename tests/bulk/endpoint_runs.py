"""Captioning by the local chat server in this process, without Ray."""

from glied.bulk import captioning
from glied.bulk.chunks import run_here
from glied.bulk.run import bulk_run
from glied.bulk.run.summary import Summary
from tests.captioner.engines.chat_server import ChatServer, serve


def endpoint_config(server: ChatServer, *options: str) -> captioning.CaptionConfig:
    """The shipped config of endpoints with this server."""
    model = [f"--captioner.url={server.url}", "--captioner.model=tiny", "--captioner.requests.backoff_s=0.01"]
    return captioning.parse_captioning(["--config=configs/caption/endpoint.yaml", *model, *options])


def run_captioning(config: captioning.CaptionConfig) -> Summary:
    """Do what the run of a config still lacks."""
    stage = captioning.caption_factory(config).build()
    stream = run_here(captioning.fetch_stage(config.input, config.resources), stage)
    return bulk_run.execute(captioning.caption_job(config), stream)


def caption_with_endpoint(*options: str) -> Summary:
    """Caption with a server that behaves well."""
    with serve() as server:
        return run_captioning(endpoint_config(server, *options))
