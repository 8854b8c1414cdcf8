"""Concurrent calls."""

from glied.bulk.parallel import in_order


def test_items_are_read_on_demand():
    taken = []

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    answers = in_order(lambda item: item * 2, items(), 3)
    assert next(answers) == 0
    assert len(taken) == 3
    assert list(answers) == list(range(2, 20, 2))
