from glied.bulk import run
from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.sources.fetch import Fetch
from glied.config import parse
from glied.datasets import features
from glied.vision.regions import load_extractor


def test_a_feature_store_with_a_row_per_image(models, photos, tmp_path):
    options = ["--config=configs/extract/demo.yaml", f"--regions.checkpoint={models / 'regions'}"]
    options += [f"--input.uri={photos}", f"--output.uri={tmp_path}", "--output.unit_size=20"]
    config = parse(ExtractRegionsConfig, options)
    summary = run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert summary.statuses == {"ok": 58, "rejected": 2}
    store = features.FeatureStore(str(tmp_path / "features"))
    assert len(store) == 60
    assert store.fingerprint == load_extractor(config.regions).fingerprint
    turned = store["turned.jpg"]
    assert (turned.width, turned.height) == (40, 60)
    assert turned.features.shape == (len(turned.labels), 16)
