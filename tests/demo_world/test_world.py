"""Sampled scenes are reproducible and inside the image, and members of a family differ in one respect."""

from collections import Counter

import numpy as np
import pytest

from glied.demo_world.placement import MAX_HIDDEN
from glied.demo_world.plan import FAMILY_SIZE, sample_plan
from glied.demo_world.world import draw, sample_scene

SCENES = [sample_scene("val", index) for index in range(400)]


def test_a_scene_depends_on_its_key_alone() -> None:
    assert sample_scene("val", 7) == SCENES[7]
    assert sample_scene("val", 7, seed=1) != SCENES[7]
    assert sample_scene("test", 7).plan != SCENES[7].plan
    assert np.array_equal(draw(SCENES[7]), draw(sample_scene("val", 7)))


def test_boxes_lie_within_the_image_and_are_visible() -> None:
    for scene in SCENES:
        assert 1 <= len(scene.objects) <= 6
        for one in scene.objects:
            x1, y1, x2, y2 = one.box
            assert 0 <= x1 < x2 <= scene.plan.width
            assert 0 <= y1 < y2 <= scene.plan.height
            assert one.visible >= 1 - MAX_HIDDEN


def test_objects_are_large_enough_for_a_small_detector() -> None:
    sides = [min(o.box[2] - o.box[0], o.box[3] - o.box[1]) for s in SCENES for o in s.objects]
    assert np.mean(np.array(sides) < 28) < 0.2
    assert np.mean(np.array(sides) < 14) < 0.01


def test_a_main_object_is_salient_in_every_scene() -> None:
    for scene in SCENES:
        assert scene.objects[0].salient
        for subject, _, partner in scene.relations:
            assert scene.objects[subject].salient
            assert scene.objects[partner].salient


def test_left_is_left() -> None:
    for scene in SCENES:
        if scene.plan.relation == "left of":
            subject, partner = scene.objects[0].box, scene.objects[1].box
            assert subject[2] <= partner[0] + 1


def test_members_of_a_family_share_the_setting_and_differ_in_the_main_objects() -> None:
    families = [i for i in range(0, 400, FAMILY_SIZE) if sample_plan("val", i, 0).family is not None]
    assert 0.2 < len(families) / 100 < 0.5
    for first in families:
        plans = [sample_plan("val", first + member, 0) for member in range(FAMILY_SIZE)]
        assert len({(p.place, p.light, p.width, p.height, p.extras) for p in plans}) == 1
        for changed in plans[1:]:
            old, new = plans[0], changed
            differences = [
                old.subject != new.subject,
                old.relation != new.relation,
                old.partner != new.partner,
            ]
            assert sum(differences) == 1


def test_places_lights_and_relations_all_occur() -> None:
    assert len(Counter(s.plan.place for s in SCENES)) == 9
    assert len(Counter(s.plan.light for s in SCENES)) == 4
    assert len(Counter(s.plan.relation for s in SCENES)) == 11


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train, val, test"):
        sample_scene("dev", 0)
