import random

from glied.bulk.plan.sources.unique_ids import Unique


def test_first_occurrences_within_and_across_calls():
    unique = Unique()
    assert unique.add(["a", "b", "a"]).tolist() == [True, True, False]
    assert unique.add(["c", "b", "c"]).tolist() == [True, False, False]
    assert unique.add([]).tolist() == []


def test_agrees_with_a_set():
    draw = random.Random(0)
    unique, seen = Unique(), set()
    for _ in range(40):
        ids = [str(draw.randrange(3000)) for _ in range(draw.randrange(200))]
        expected = []
        for one in ids:
            expected.append(one not in seen)
            seen.add(one)
        assert unique.add(ids).tolist() == expected
