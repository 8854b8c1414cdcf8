"""benchmarks/claims.py: the arithmetic of verdicts, and whole runs on a few scenes."""

import dataclasses
import json
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import claims
from benchmarks.captioners import configured
from benchmarks.claims_figures import digest
from benchmarks.claims_rewards import REWARDS
from benchmarks.claims_runs import RECORDED, changes, check_judge, equal_size, job, parameters, prepare
from benchmarks.claims_table import markdown, missing, report, table, verdict
from benchmarks.claims_variants import RECURRENT
from benchmarks.claims_worlds import DEMO, PHOTOGRAPHS, WORLDS
from glied.captioner.architectures import build_model
from glied.clip.grammar_head import CORRUPTIONS, GrammarHead, save_grammar
from glied.clip.model import build_clip, save_clip
from glied.data import features
from glied.data.coco import load_captions
from glied.demo_world.dataset import write_split
from glied.errors import UsageError
from glied.reports.benchmark_tables import read_table
from glied.text.references import save_frequencies
from glied.training.tasks.captioner import TrainCaptionerConfig
from glied.vision.attributes import AttributePredictor, save_attributes
from tests.clip.test_clip import TINY
from tests.jobs.local_training import load_task
from tests.training.tasks.rewarded import one_region

HIGHER = DEMO.claims[0]
PRESERVED = next(claim for claim in DEMO.claims if claim.kind == "at most")
COMPARED = next(claim for claim in PHOTOGRAPHS.claims if claim.other == "ct")


def runs(variant: str, *values: float, figure: str = "CIDEr") -> list[dict]:
    return [
        {"variant": variant, "seed": seed, "figures": {figure: value}, "machine": "m", "date": "2026-01-01"}
        for seed, value in enumerate(values)
    ]


def verdict_of(claim, better: list[dict], other: list[dict]) -> str:
    return verdict(claim, [*better, *other])["verdict"]


def test_a_difference_must_reach_its_minimum_and_exceed_chance():
    base = runs("base", 100, 101, 102)
    assert verdict_of(HIGHER, runs("glied", 104, 105, 104), base) == "shown"
    assert verdict_of(HIGHER, runs("glied", 102, 103, 103), base) == "not shown", "1.7 above"
    assert verdict_of(HIGHER, runs("glied", 96, 104, 112), base) == "not shown", "3 above, but by chance"
    found = verdict(HIGHER, [*runs("glied", 104, 105, 104), *base])
    assert found["difference"] == 3.33
    assert found["interval"] == [2, 4.5]


def test_no_verdict_from_fewer_seeds_than_three():
    found = verdict(HIGHER, [*runs("glied", 150, 150, 150), *runs("base", 100, 100)])
    assert found["verdict"] == "not measured"
    assert (found["seeds"], found["difference"]) == (2, None)


def test_a_claim_of_no_increase_must_hold_beyond_chance():
    figure = PRESERVED.figure
    xe = runs("glied", 10, 10, 10, figure=figure)
    assert verdict_of(PRESERVED, runs("clip_s_grammar", 10, 11, 11, figure=figure), xe) == "shown"
    assert verdict_of(PRESERVED, runs("clip_s_grammar", 10, 11, 12, figure=figure), xe) == "not shown"
    assert verdict_of(PRESERVED, runs("clip_s_grammar", 1, 1, 1, figure=figure), xe) == "shown"


def test_a_claim_of_no_decrease_must_hold_beyond_chance():
    claim = next(claim for claim in DEMO.claims if claim.kind == "at least" and claim.bound == -1)
    xe = runs("glied", 90, 90, 90, figure=claim.figure)
    assert verdict_of(claim, runs("together", 89, 90, 89, figure=claim.figure), xe) == "shown"
    assert verdict_of(claim, runs("together", 91, 91, 88, figure=claim.figure), xe) == "not shown", (
        "by chance"
    )


def test_a_comparison_says_which_is_higher_beyond_chance():
    ct = runs("ct", 50, 51, 52)
    assert verdict_of(COMPARED, runs("glied", 53, 54, 54), ct) == "higher"
    assert verdict_of(COMPARED, runs("glied", 51, 52, 53), ct) == "no difference"
    assert verdict_of(COMPARED, runs("glied", 47, 48, 48), ct) == "lower"


def test_the_interval_covers_images_where_all_runs_know_them():
    base, glied = runs("base", 100, 101, 102), runs("glied", 104, 105, 104)
    over_seeds = verdict(HIGHER, [*base, *glied])["interval"]
    for run in base:
        run["by_image"] = {"CIDEr": [90.0, 100.0, 110.0, 100.0]}
    assert verdict(HIGHER, [*base, *glied])["interval"] == over_seeds
    for run, more in zip(glied, (4.0, 4.0, 4.0), strict=True):
        run["by_image"] = {"CIDEr": [90.0 + more, 100.0 + more, 110.0 + more, 100.0 + more]}
    assert verdict(HIGHER, [*base, *glied])["interval"] == [4, 4], "each image is 4 above"
    for run in glied:
        run["by_image"] = {"CIDEr": [90.0, 100.0, 110.0, 116.0]}
    assert verdict(HIGHER, [*base, *glied])["interval"] == [0, 12], "one image of four is 16 above"
    assert "| 0 to 12 |" in markdown(report([*base, *glied], PHOTOGRAPHS), PHOTOGRAPHS)


def test_shares_are_compared_over_all_statements():
    claim = dataclasses.replace(COMPARED, figure="precision relations")
    found = []
    for variant, pairs in (("glied", [[1, 1], [3, 3]]), ("ct", [[0, 1], [2, 3]])):
        for run in runs(variant, 0, 0, 0, figure=claim.figure):
            found.append(run | {"by_image": {claim.figure: pairs}})
    result = verdict(claim, found)
    assert result["difference"] == 50, "4 of 4 against 2 of 4, not the mean over images"
    assert result["verdict"] == "higher"


def test_equal_cpu_is_the_time_of_the_cheapest_run_of_the_seed():
    two = runs("base", 1) + runs("glied", 1)
    for run, minutes in zip(two, (4, 8), strict=True):
        points = [{"cpu_minutes": minutes * part / 4, "cider": 10.0 * minutes + part} for part in range(1, 5)]
        run["curve"] = points
    rows = table(two, DEMO)
    assert [row["CIDEr val at equal CPU"] for row in rows] == [44, 82]


def test_report_names_missing_runs(tmp_path):
    found = runs("glied", 104, 105, 106)
    result = report(found, DEMO)
    assert result["note"].startswith(f"3 of {5 * len(DEMO.variants)} runs; m; 2026-01-01")
    assert len(result["missing"]) == len(missing(found, DEMO)) == 5 * len(DEMO.variants) - 3
    assert "| GLIED, XE | 3 | 105 ± 2 |" in markdown(result, DEMO)
    assert f"Not measured, with fewer than 3 seeds: {HIGHER.says} (0); " in markdown(result, DEMO)
    (tmp_path / "claims.json").write_text(json.dumps(result))
    assert read_table(str(tmp_path / "claims.json")).labels == ["GLIED, XE"]


def test_without_options_the_stored_results_are_printed(tmp_path, monkeypatch, capsys):
    options = [f"--results={tmp_path}", f"--out={tmp_path}/out.json", "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", ["claims.py", *options])
    assert claims.main() == 0
    printed = capsys.readouterr().out
    assert "no claim is decided" in printed
    last = json.loads(printed.splitlines()[-1])
    assert {one["verdict"] for one in last["claims"]} == {"not measured"}
    assert len(last["missing"]) == 5 * len(DEMO.variants)
    assert json.loads((tmp_path / "out.json").read_text()) == last


def test_a_judge_that_is_missing_or_unfit_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"train configs/clip/judge\.yaml"):
        check_judge(str(tmp_path))
    result = tmp_path / "result.json"
    for r1, pool in ((69.9, 5000), (90.0, 1000)):
        result.write_text(json.dumps({"best": r1, "validation": {"pool": pool}}))
        with pytest.raises(UsageError, match=f"R@1 {r1} in a pool of {pool}; a judge needs 70 in 5000"):
            check_judge(str(tmp_path))
    result.write_text(json.dumps({"best": 70.0, "validation": {"pool": 5000.0}}))
    check_judge(str(tmp_path))


def test_any_clip_may_judge_where_settings_are_chosen(tmp_path):
    where = {"judge": str(tmp_path), "results": str(tmp_path / "results")}
    with pytest.raises(UsageError, match="is not a complete run"):
        prepare(claims.Config(full=True, variants=("cider",), **where))
    prepare(claims.Config(full=True, variants=("cider",), scenes="data/scenes/val", **where))


@pytest.mark.parametrize(
    ("world", "feature_size", "vocabulary_size", "sized"),
    [
        (
            "demo",
            256,
            210,
            {
                *("base_wide", "ct_small", "glied_wide", "glied_region_feed_forward"),
                *("glied_feed_forward_small", "glied_feed_forward_large"),
            },
        ),
        ("photographs", 352, 2543, {"base_wide", "up_down", "ct"}),
        ("photographs", 1472, 2543, {"base_wide", "up_down", "ct"}),
    ],
)
def test_models_of_equal_size_have_the_parameters_of_glied(world, feature_size, vocabulary_size, sized):
    config = claims.Config(world=world, full=True)
    shape = {"feature_size": feature_size, "vocabulary_size": vocabulary_size}
    settings = WORLDS[world].variants
    assert {variant for variant, one in settings.items() if one.sized} == sized
    for variant in sized:
        goal = job(config, settings[variant].size_of, 0).model
        model = equal_size(job(config, variant, 0).model, settings[variant].sized, goal, **shape)
        assert abs(parameters(model, **shape) / parameters(goal, **shape) - 1) < 0.03, variant


def test_variants_differ_from_glied_in_the_model_alone():
    for name, spec in WORLDS.items():
        config = claims.Config(world=name, full=True)
        glied = job(config, "glied", 1)
        for variant in (variant for variant, one in spec.variants.items() if not one.reward):
            other = job(config, variant, 1)
            assert other.trainer.output == f"{spec.runs}/{variant}-1"
            trainer = dataclasses.replace(other.trainer, output=glied.trainer.output)
            assert dataclasses.replace(other, model=glied.model, trainer=trainer) == glied, variant


@pytest.mark.parametrize("name", ["base", "ct", *RECURRENT])
def test_the_models_of_table_2_are_those_of_their_configs(name):
    own = job(claims.Config(full=True), name, 0)
    given = configured(TrainCaptionerConfig, f"captioner/{name}_demo.yaml", {})
    shape = {"feature_size": 8, "vocabulary_size": 20}
    with torch.device("meta"):
        built, expected = (build_model(one.model, **shape) for one in (own, given))
    assert str(built) == str(expected)
    assert own.words == given.words


def test_the_short_form_warms_up_within_its_steps():
    for name, spec in WORLDS.items():
        for variant in spec.variants:
            trainer = job(claims.Config(world=name, short=True), variant, 0).trainer
            assert trainer.schedule.warmup_steps <= trainer.max_steps, variant


def test_rewards_differ_from_clip_s_with_grammar_in_their_settings_alone():
    config = claims.Config(full=True)
    plain = job(config, "clip_s_grammar", 1)
    for variant, one in REWARDS.items():
        settings = dict(one.settings)
        restored = {key: str(attrgetter(key)(plain)) for key in [*settings, "trainer.output"]}
        own = dataclasses.replace(DEMO.variants[variant], settings=restored)
        world = dataclasses.replace(DEMO, variants={variant: own})
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(WORLDS, "demo", world)
            assert job(config, variant, 1) == plain, variant
    assert changes({}) == {}
    clip = {"reward.clip.checkpoint": "glied/weights/demo/grammar"}
    assert changes(clip) == {"settings": clip, "rewarding_clip": digest(config.clip)}


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_committed_runs_have_the_recipe_of_their_world(world):
    """Apart from digests and missing keys: --full would measure a run with a different recipe again."""
    config = claims.Config(world=world, full=True)
    runs = claims.read_runs(config.result_folder)
    assert runs
    for run in runs:
        trainer = job(config, run["variant"], run["seed"]).trainer
        stored = {name: value for name, value in run["recipe"].items() if name in RECORDED}
        assert stored.keys() >= {"epochs", "max_steps", "batch_size", "learning_rate"}
        assert stored == {name: attrgetter(RECORDED[name])(trainer) for name in stored}


def test_bad_options_are_named():
    with pytest.raises(UsageError, match="variants: 'best' is none of base"):
        claims.Config(variants=("best",))
    with pytest.raises(UsageError, match=r"variants: 'ct_small' is none of base, .*ct, cider"):
        claims.Config(world="photographs", variants=("ct_small",))
    with pytest.raises(UsageError, match="exclude each other"):
        claims.Config(full=True, short=True)


@pytest.fixture
def few_scenes(tmp_path, monkeypatch) -> Path:
    """A few scenes with random features, an attribute predictor, and a random CLIP as reward and judge."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 6)):
        scenes = tmp_path / "data" / "scenes_tiny" / split
        write_split(scenes, split, count, 0, 1)
        names = list(load_captions(str(scenes / "captions.json")))
        regions = [one_region(random.normal(size=8)) for _ in names]
        store = tmp_path / "runs" / "features_tiny" / split
        store.mkdir(parents=True)
        table = features.write(regions, [f"images/{name}" for name in names], fingerprint={"weights": "toy"})
        (store / "part.parquet").write_bytes(features.parquet_bytes(table))
    save_attributes(AttributePredictor(["dog", "red"], feature_size=8), "runs/attributes_tiny/best")
    task = load_task("captioner/glied_tiny.yaml")
    save_frequencies("runs/cider_tiny", task.config.train.references, task.vocabulary)
    torch.manual_seed(0)
    clip = build_clip(TINY, preprocess={"resize_mode": "squash"})
    for folder in ("runs/grammar", "runs/judge/best"):
        save_clip(folder, clip, TINY)
    head = GrammarHead(width=TINY["text_cfg"]["width"], hidden=8)
    save_grammar("runs/grammar", head, {f"accuracy_{kind}": 100.0 for kind in CORRUPTIONS})
    return tmp_path


def test_short_form_trains_and_measures_once(few_scenes, monkeypatch, capsys):
    options = ["--configs=tiny", "--scenes=data/scenes_tiny/test", "--features=runs/features_tiny/test"]
    monkeypatch.setattr(sys, "argv", ["claims.py", "--short", "--clip=runs/grammar", *options])
    assert claims.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["variant"] for row in result["rows"]] == ["Base, XE", "GLIED, XE", "GLIED, CIDEr"]
    for row in result["rows"]:
        measured = {name for name in row if not name.endswith(" spread")}
        assert measured >= {"CIDEr", "BLEU-4", "clip R@1", "judge R@10", "judge CLIP-S", "p(grammatical)"}
        assert measured >= {"recall object", "repeated bigrams", "cut", "length", "CPU minutes"}
        assert row["CPU minutes"] >= 0
    results = few_scenes / "runs" / "claims" / "short" / "results"
    run = json.loads((results / "cider-0.json").read_text())
    assert (run["recipe"]["max_steps"], run["test_images"]) == (2, 6)
    assert run["recipe"]["judge"]
    assert "its figures say nothing" in (results / "claims.md").read_text()

    monkeypatch.setattr(sys, "argv", [*sys.argv, "--speed"])
    assert claims.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row.get("images/s", 0) > 0 for row in result["rows"]] == [True, True, False], "XE alone"
    monkeypatch.setattr(sys, "argv", sys.argv[:-1])

    marked = results / "base-0.json"
    marked.write_text(json.dumps(json.loads(marked.read_text()) | {"date": "kept"}))
    assert claims.main() == 0
    assert json.loads(marked.read_text())["date"] == "kept", "a finished run is not measured again"


def test_photographs_are_measured_without_figures_of_scenes(few_scenes, monkeypatch, capsys):
    tiny = {"captioner": "captioner/glied_tiny.yaml", "reward": "scst/cider_tiny.yaml"}
    monkeypatch.setitem(WORLDS, "photographs", dataclasses.replace(PHOTOGRAPHS, **tiny, images="images"))
    options = ["--scenes=data/scenes_tiny/test", "--features=runs/features_tiny/test"]
    command = ["claims.py", "--short", "--world=photographs", *options]
    monkeypatch.setattr(sys, "argv", command)
    assert claims.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = [
        "Base with GLIED's parameters, XE",
        "GLIED, XE",
        "CT with GLIED's parameters, XE",
        "GLIED, CIDEr",
    ]
    assert [row["variant"] for row in result["rows"]] == names
    for row in result["rows"]:
        assert row.keys() >= {"CIDEr", "ROUGE-L", "CIDEr, beam 5", "BLEU-4, beam 5", "repeated bigrams"}
        assert not row.keys() & {"judge R@1", "METEOR", "recall object", "precision objects"}
    results = few_scenes / "runs" / "photographs" / "claims" / "short" / "results"
    run = json.loads((results / "ct-0.json").read_text())
    assert len(run["by_image"]["CIDEr"]) == run["test_images"] == 6
    assert sum(run["by_image"]["CIDEr"]) / 6 == pytest.approx(run["figures"]["CIDEr"], abs=0.01)
    assert run["recipe"]["decoding"].startswith("greedy and beam 5")
    assert run["recipe"]["regions"] == "toy"

    monkeypatch.setattr(sys, "argv", [*command, "--judge=runs/judge"])
    assert claims.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all("judge R@1" in row for row in result["rows"]), "measured again with the judge"

    (results / "glied-0.json").unlink()
    store = few_scenes / "runs" / "features_tiny" / "test"
    table = features.write([one_region(np.ones(8))], ["images/0.jpg"], fingerprint={"weights": "other"})
    (store / "part.parquet").write_bytes(features.parquet_bytes(table))
    monkeypatch.setattr(sys, "argv", [*command, "--variants", "glied"])
    with pytest.raises(UsageError, match=r"glied-0/best was trained on other regions .* or delete the run"):
        claims.main()


def test_the_picture_has_a_point_for_each_reward_with_its_short_name(tmp_path, monkeypatch):
    figures = {"judge R@1": 40.0, "precision relations": 60.0, "precision colors": 90.0}
    for variant in ("base", "glied", "cider", "normalized"):
        run = {"variant": variant, "seed": 0, "figures": figures, "machine": "m", "date": "2026-01-01"}
        (tmp_path / f"{variant}-0.json").write_text(json.dumps(run))
    out = tmp_path / "rewards.svg"
    monkeypatch.setattr(sys, "argv", ["claims.py", f"--results={tmp_path}", f"--picture={out}"])
    assert claims.main() == 0
    drawn = out.read_text()
    for name in ("XE", "CIDEr", "parts normalized separately (GDPO)"):
        assert drawn.count(f">{name}<") == 2, name
    assert "Base" not in drawn
