"""Who is to blame for failed rows."""

import pyarrow as pa

from glied.bulk.run.failures import LEAST_IMAGES, ServerWatch, failures, host_errors

ROWS = [
    # status, kind, width
    ("ok", None, 8),
    ("failed", "timeout", None),  # of a web host
    ("failed", "timeout", 8),  # of a captioner's server
    ("failed", "http_503", None),
    ("failed", "cut_answer", 8),
    ("failed", "empty_answer", 8),
    ("failed", "worker_lost", None),
    ("failed", "storage", None),
    ("rejected", "refused", 8),
]


def table_of(rows):
    columns = {
        "uri": [f"{number}.jpg" for number in range(len(rows))],
        "status": [row[0] for row in rows],
        "error_kind": pa.array([row[1] for row in rows], pa.string()),
        "error": pa.array([row[1] and f"because of {row[1]}" for row in rows], pa.string()),
        "width": pa.array([row[2] for row in rows], pa.int32()),
    }
    return pa.table(columns)


def test_the_width_distinguishes_servers_from_web_hosts():
    found = failures(table_of(ROWS))
    assert [one.uri for one in found] == [f"{number}.jpg" for number in range(1, 8)]
    assert [one.uri for one in found if one.is_of_host] == ["1.jpg", "3.jpg"]
    assert [one.uri for one in found if one.is_of_server] == ["2.jpg", "4.jpg"]
    assert [one.uri for one in found if one.is_suspect] == ["6.jpg"]
    assert host_errors(table_of(ROWS)) == {"timeout": 1, "http_503": 1}
    assert host_errors(table_of(ROWS).drop_columns(["width"])) == {"timeout": 2, "http_503": 1}


def down(images, kind="http_500"):
    return table_of([("failed", kind, 8)] * images)


def everything(table):
    return range(table.num_rows)


def test_a_server_is_given_up_after_several_units_without_a_caption():
    watch, unit = ServerWatch(3), down(LEAST_IMAGES)
    assert [bool(watch(unit, everything(unit))) for _ in range(4)] == [False, False, True, True]
    few = down(1)
    watch = ServerWatch(3)
    heard = [bool(watch(few, everything(few))) for _ in range(LEAST_IMAGES)]
    assert heard == [False] * (LEAST_IMAGES - 1) + [True]
    assert "units in a row, last for 0.jpg: because of http_500. The same command" in watch(few, [0])


def test_a_caption_shows_that_the_server_is_there():
    watch, unit, good = ServerWatch(2), down(LEAST_IMAGES), table_of(ROWS)
    heard = [watch(one, everything(one)) for one in (unit, good, unit, good)]
    assert heard == [""] * 4
    retried = pa.concat_tables([table_of(ROWS[:1]), unit])  # a good row of an earlier attempt proves nothing
    assert [bool(watch(retried, range(1, retried.num_rows))) for _ in range(2)] == [False, True]


def test_other_failures_are_not_the_servers():
    watch = ServerWatch(1)
    for kind, width in (("empty_answer", 8), ("timeout", None), ("worker_lost", None), ("storage", None)):
        unit = table_of([("failed", kind, width)] * LEAST_IMAGES)
        assert watch(unit, everything(unit)) == ""
