import pytest

OPTIONS = {
    "lstm": {"architecture": "lstm", "embedding_width": 10},
    "soft_att": {"architecture": "soft_att", "attention_width": 8},
    "up_down": {"architecture": "up_down", "attention_width": 8, "embedding_width": 12},
    "ct": {"architecture": "ct", "layers": 2, "feed_forward": 24, "tied": True},
}


@pytest.fixture(params=OPTIONS)
def make_baseline(request, make_model):
    """Make small models of one of the paper's comparison architectures with random weights."""
    architecture = OPTIONS[request.param]
    return lambda **options: make_model(**{"geometry": True, **architecture, **options})
