"""Format the results of the stages as named figures and as tables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.gpu_stages.setting import Row

GOALS = {
    "glied_beam3_bf16_captions_per_s": 20_000,
    "r50_fpn_v2_800_images_per_s": 300,
    "scst_images_per_s": 1_500,
    "bytes_to_captions_224_images_per_s": 2_000,
}
"""Goals for one H100."""


def figures(results: Mapping[str, Row]) -> Row:
    """Return the main figures, the goals, and the machine."""
    machine = results.get("machine", {}).get("rows") or [{}]

    def beam3(row: Row) -> bool:
        return (row.get("beams"), row.get("dtype")) == (3, "bfloat16")

    def kind(name: str) -> Callable[[Row], bool]:
        return lambda row: row.get("kind") == name

    def detector(row: Row) -> bool:
        return row.get("extractor", row).get("model") == "detector"

    def small(row: Row) -> bool:
        return row["extractor"]["side"] == 224

    named = {
        "glied_beam3_bf16_captions_per_s": best(results, ("decoding", "graphs"), "captions_per_s", beam3),
        "r50_fpn_v2_800_images_per_s": best(results, ("regions",), "images_per_s", detector),
        "scst_images_per_s": best(results, ("training",), "images_per_s", kind("scst")),
        "xe_images_per_s": best(results, ("training",), "images_per_s", kind("xe")),
        "bytes_to_captions_224_images_per_s": best(results, ("captions",), "images_per_s", small),
        "bytes_to_captions_detector_images_per_s": best(results, ("captions",), "images_per_s", detector),
    }
    dry = any(one.get("dry") for one in results.values())
    conditions = {"gpu": machine[0].get("gpu"), "machine": machine[0].get("machine"), "dry": dry}
    return named | {"goals": GOALS} | conditions


def best(
    results: Mapping[str, Row], names: Iterable[str], figure: str, wanted: Callable[[Row], bool]
) -> float | None:
    """Return the highest value of a figure among the wanted rows; None if there is none."""
    rows = [row for name in names for row in results.get(name, {}).get("rows", []) if figure in row]
    return max((row[figure] for row in rows if wanted(row)), default=None)


def markdown(results: Mapping[str, Row]) -> str:
    """Format a table for each stage and kind of row."""
    parts = []
    for name, result in results.items():
        state = "" if result["complete"] else f", incomplete: {result.get('error')}"
        parts.append(f"### {name} ({result['seconds']} s{state})\n")
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in map(flat, result["rows"]):
            shape = ("check",) if "check" in row else tuple(row)
            groups.setdefault(shape, []).append(row)
        parts += [table(group) for group in groups.values()]
    return "\n".join(parts)


def flat(row: Mapping[str, Any], prefix: str = "") -> Row:
    """Flatten a nested row; nested keys are joined with dots."""
    flattened: Row = {}
    for key, value in row.items():
        flattened |= flat(value, f"{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flattened


def table(rows: list[Row]) -> str:
    """Format rows of the same kind as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join("" if row.get(key) is None else str(row[key]) for key in keys) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"
