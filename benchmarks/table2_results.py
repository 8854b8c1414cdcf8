"""The tables of benchmarks/table2.py as Markdown, beside the paper's figures."""

from collections.abc import Iterator
from typing import Any

PAPER = {
    "lstm": ("LSTM", 11.5, 16.8, 28.6, 105.7),
    "soft_att": ("SoftAtt", 12.1, 20.4, 23.3, 111.5),
    "up_down": ("Up-Down", 50.1, 24.9, 14.8, 113.2),
    "ct": ("CT", 27.5, 22.7, 12.9, 115.1),
    "base": ("Base", 12.3, 13.2, 37.9, 113.5),
    "glied": ("GLIED", 18.3, 11.9, 34.5, 118.2),
}
"""The paper's rows: name, millions of parameters, training hours, images/s, CIDEr (COCO, one GTX 1080 Ti)."""


def parameter_table(parameters: dict[str, dict[str, int]]) -> str:
    """Format the parameters at the paper's sizes, by part, beside those that the paper states."""
    lines = ["| model | paper | ours | parts, millions |", "|---|---|---|---|"]
    for name, parts in parameters.items():
        listed = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in parts.items())
        title, paper = PAPER[name][:2]
        lines.append(f"| {title} | {paper}M | {sum(parts.values()) / 1e6:.1f}M | {listed} |")
    return "\n".join(lines) + "\n"


def markdown(results: dict[str, Any]) -> str:
    """Format the results: how they were measured, our table, then the paper's."""
    lines = ["**Short form: it checks that the script works; its figures say nothing.**", ""]
    lines = [*(lines if results["short"] else []), conditions(results), ""]
    return "\n".join([*lines, *our_table(results), "", *paper_table(results)]) + "\n"


def conditions(results: dict[str, Any]) -> str:
    """Return a paragraph that says how the results were measured."""
    model = next(iter(results["models"].values()))
    return (
        f"Demo world, {model['train_images']} train / {model['val_images']} val / {model['test_images']} "
        f"test scenes, {model['epochs']:g} epochs of batch {model['batch']}, one seed. {results['machine']}, "
        f"{results['threads']} thread(s), {results['date']}. Minutes are CPU time of training without "
        "validation, up to the best validation (in brackets: of the whole training). Images/s are from "
        "stored regions and attributes, with beam 3 and batch 50: at the demo world's sizes and, with random "
        "weights and 20 words, at the paper's sizes."
    )


def our_table(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of our results."""
    speed = results.get("speed", {"demo": {}, "paper_sizes": {}})
    yield (
        "| | parameters | minutes | images/s | images/s, paper's sizes | CIDEr val, greedy "
        "| CIDEr test, beam 3 |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, model in results["models"].items():
        columns = [
            PAPER[name][0],
            f"{model['parameters'] / 1e6:.2f}M",
            f"{model['minutes_to_best']:.1f} ({model['minutes']:.1f})",
            speed["demo"].get(name, ""),
            speed["paper_sizes"].get(name, ""),
            f"{model['val_cider']:.1f}",
            f"{model['test_cider']:.1f}",
        ]
        yield f"| {' | '.join(map(str, columns))} |"


def paper_table(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of the paper's results."""
    yield "| the paper (COCO, one GTX 1080 Ti) | parameters | training hours | images/s | CIDEr |"
    yield "|---|---|---|---|---|"
    for name in results["models"]:
        title, parameters, hours, speed, cider = PAPER[name]
        yield f"| {title} | {parameters}M | {hours} | {speed} | {cider} |"
