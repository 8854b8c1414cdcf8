"""Links, files, commands and error messages in the docs exist."""

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import cost

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "research").glob("*.md"), *ROOT.glob("*.md")])
CARDS = sorted([*(ROOT / "glied" / "weights").glob("*/README.md"), ROOT / "benchmarks" / "README.md"])
NAMES = r"(?:jobs|configs|cluster|tests|benchmarks)/[\w./-]+\.(?:py|yaml|json)"


@pytest.mark.parametrize("page", [*DOCS, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Links lead to existing files and headings."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    targets = [((page.parent / link) if link else page, anchor) for link, anchor in links]
    assert [link for link, _ in targets if not link.exists()] == []
    assert [(link.name, anchor) for link, anchor in targets if anchor and anchor not in anchors(link)] == []


def anchors(page: Path) -> list[str]:
    """Return GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_files_in_commands_exist(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.]){NAMES}", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


PAGES = [page for page in DOCS if page.is_relative_to(ROOT / "docs")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_at_most_100_characters_long(page: Path) -> None:
    """Except tables and images, which Markdown cannot wrap."""
    lines = [line for line in page.read_text().split("\n") if not line.startswith(("|", "!"))]
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("folder", ["benchmarks", "cluster", "configs", "docs", "glied", "jobs"])
def test_pages_named_in_sources_exist(folder: str) -> None:
    files = [file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".yaml", ".md")]
    named = {name for file in files for name in re.findall(r"(?<![\w/.(])docs/[\w/]+\.md", file.read_text())}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


COMMANDED = [
    *DOCS,
    *sorted((ROOT / "glied" / "commands").glob("*.py")),
    *sorted((ROOT / "configs").rglob("*.yaml")),
]


@pytest.mark.parametrize("file", COMMANDED, ids=lambda file: file.name)
def test_commands_work_in_a_fresh_clone(file: Path) -> None:
    """They use the environment that `make` creates; commands on a cluster use its own Python."""
    text = file.read_text() if file.suffix != ".py" else ast.get_docstring(ast.parse(file.read_text())) or ""
    bare = re.findall(r"(?<![\w/.])(?<!-- )python (?:jobs|benchmarks|cluster)/\S+", text)
    bare += re.findall(r"^(?:    |#   |)ray (?:job|dashboard|start|status|up|down) .*", text, re.MULTILINE)
    assert bare == []


def test_messages_of_the_troubleshooting_page_exist() -> None:
    """Each message occurs in a source file, except for its placeholders (`...`, N and M)."""
    page = (ROOT / "docs" / "troubleshoot.md").read_text().partition("## Ray's")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    files = [*(ROOT / "glied").rglob("*.py")]
    sources = "\n".join(re.sub(r'"\s*\n\s*[rf]*"', "", file.read_text()) for file in files)
    sources = re.sub(r"\{[^{}]*\}|%\w", "...", sources)
    assert len(messages) > 20
    parts = {part.strip(" ':;,") for message in messages for part in re.split(r"\.\.\.|\b[NM]\b", message)}
    assert sorted(part for part in parts if part not in sources) == []


def test_the_tables_of_the_scaling_page_are_up_to_date() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert cost.replaced(page, cost.tables(cost.Config())) == page, (
        "run python benchmarks/cost.py --write docs/scaling.md"
    )
    run = cost.Run(3_600_000, cost.Config(images_per_s=50, unit_size=1000), cost.Measured.load())
    assert (run.units, run.gets, run.gpu_hours) == (3600, 7_200_000, 20)
    assert run.gpu_dollars == pytest.approx(20 * 0.98)


def test_each_photograph_of_the_demo_has_author_license_and_source() -> None:
    folder = ROOT / "docs" / "images" / "photographs"
    files = sorted(folder.glob("*.jpg"))
    lines = re.findall(
        r"^\| `(\S+)` \| (.+?) \| (.+?) \| (.+?) \|$", (folder / "README.md").read_text(), re.MULTILINE
    )
    assert [name for name, *_ in lines] == [file.name for file in files]
    assert {license for _, _, license, _ in lines} <= {"public domain", "CC0 1.0", "CC BY 4.0"}
    assert len(files) >= 12
    assert sum(file.stat().st_size for file in files) < 1_500_000
    for file in files:
        with Image.open(file) as image:
            assert max(image.size) <= 640
            assert not image.getexif()
