"""The gallery in a real browser, opened as a file; tests/install_browser.sh installs the browser."""

import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from docs.gallery_picture import PROGRAMS, PictureConfig, chromium, photograph
from glied.bulk.run.committed_rows import read_rows
from glied.config import parse
from glied.errors import UsageError
from glied.reports import gallery_page
from glied.reports.gallery import GalleryConfig, make_gallery
from tests.bulk import runs
from tests.captioner.engines.chat_server import serve
from tests.reports.gallery_runs import Page, caption_with_endpoint, demo_options
from tests.reports.test_gallery import evil_row

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)),
    reason="no chromium and chromedriver here: run tests/install_browser.sh as root",
)
WAIT_S = 30
# The page fills cards that come near the window in a task after the browser has drawn a frame.
SETTLE = """const done = arguments[arguments.length - 1];
    const frame = () => new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
    const waiting = () => [...document.querySelectorAll("#cards article")].some((card) => {
        const { top, bottom } = card.getBoundingClientRect();
        return bottom >= 0 && top <= innerHeight && !card.childElementCount;
    });
    (async () => { do { await frame(); await frame(); } while (waiting()); done(); })();"""


class Browser:
    """Headless Chromium with one page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.entries: list[dict[str, Any]] = []

    def open(self, file: Path) -> None:
        self.entries = Page(file.read_text()).data["entries"]
        self.driver.get_log("browser")  # discard those of the previous page
        self.driver.get(file.as_uri())
        self.settle()

    def wait(self, script: str) -> None:
        WebDriverWait(self.driver, WAIT_S).until(lambda driver: driver.execute_script(script))

    def settle(self) -> None:
        """Wait until no card in the window is empty."""
        self.driver.execute_async_script(SETTLE)

    def all(self, selector: str) -> list[WebElement]:
        self.settle()
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        self.settle()
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        self.settle()
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        return self.driver.execute_script(script, selector)

    def lit(self, within: str) -> set[int]:
        """Return the regions whose boxes are highlighted."""
        self.settle()
        script = "return [...document.querySelectorAll(arguments[0])].map((box) => +box.dataset.region)"
        return set(self.driver.execute_script(script, f"{within} .stage.lit .box.on"))

    def hover(self, element: WebElement) -> None:
        ActionChains(self.driver).move_to_element(element).perform()

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def shown(self) -> list[int]:
        """Return the positions of the entries on the page, in order."""
        script = "return [...document.querySelectorAll('#cards article')].map((one) => +one.dataset.index)"
        return self.driver.execute_script(script)

    def set(self, selector: str, value: str) -> None:
        script = """const element = document.querySelector(arguments[0]);
            element.value = arguments[1];
            for (const name of ["input", "change"]) element.dispatchEvent(new Event(name));"""
        self.driver.execute_script(script, selector, value)

    def complaints(self) -> list[str]:
        """Return the messages of the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def gallery(captioned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "a 'page' #1.html"
    make_gallery(
        GalleryConfig(run=str(captioned / "run"), out=str(out), references=str(captioned / "captions.json"))
    )
    return out


@pytest.fixture
def browser(driver: webdriver.Chrome, gallery: Path) -> Browser:
    """The gallery of the run, newly loaded."""
    browser = Browser(driver)
    browser.open(gallery)
    return browser


def places(flat: list[int]) -> set[int]:
    """Return the positions in a list of weights."""
    return set(flat[::2])


def named(entry: dict[str, Any], flat: list[int], count: int) -> list[str]:
    """Return attribute and percent of the strongest weights in the format of the chips."""
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [f"{entry['attributes'][index][0]}{percent}" for index, percent in pairs][:count]


def test_hovering_over_a_word_highlights_its_regions_and_attributes(browser: Browser) -> None:
    entry = browser.entries[0]
    words = browser.all("article:first-child .word")
    assert [word.text for word in words] == entry["attention"]["words"]
    assert browser.lit("article:first-child") == set()
    sets = [places(flat) for view in ("global", "local") for flat in entry["attention"][view]["regions"]]
    assert len({tuple(sorted(one)) for one in sets}) > 1, "every word highlights the same boxes"
    for view in ("global", "local"):
        browser.driver.execute_script(f"document.querySelector('#views input[value={view}]').click()")
        for index in (0, len(words) - 1):
            browser.hover(words[index])
            assert browser.lit("article:first-child") == places(entry["attention"][view]["regions"][index])
            weights = entry["attention"]["collocations" if view == "global" else "local"]
            weights = weights if view == "global" else weights["attributes"]
            assert browser.texts("article:first-child .chip.on") == named(entry, weights[index], 4)
    browser.hover(browser.one("h1"))
    assert browser.lit("article:first-child") == set()
    assert browser.complaints() == []


def test_the_highlighted_boxes_are_at_the_positions_of_the_data(browser: Browser) -> None:
    entry = browser.entries[0]
    browser.hover(browser.one("article:first-child .word"))
    picture = browser.one("article:first-child img").rect
    for box in browser.all("article:first-child .stage.lit .box.on"):
        x, y, width, height = entry["regions"][int(box.get_attribute("data-region") or -1)][:4]
        scale = picture["width"] / entry["width"]
        assert box.rect["x"] - picture["x"] == pytest.approx(x * scale, abs=2)
        assert box.rect["y"] - picture["y"] == pytest.approx(y * scale, abs=2)
        assert box.rect["width"] == pytest.approx(max(width * scale, 3), abs=2)
        assert box.rect["height"] == pytest.approx(max(height * scale, 3), abs=2)
    assert len(browser.lit("article:first-child")) > 0
    assert browser.complaints() == []


def test_the_keyboard_works_like_the_mouse(browser: Browser) -> None:
    attention = browser.entries[0]["attention"]
    first = "article:first-child"
    browser.driver.execute_script("document.querySelector('article .frame').focus()")
    browser.press(Keys.TAB)
    assert browser.lit(first) == places(attention["global"]["regions"][0])
    browser.press(Keys.ARROW_RIGHT)
    assert browser.lit(first) == places(attention["global"]["regions"][1])
    assert (
        browser.one("#spoken").get_attribute("textContent").startswith(f"{attention['words'][1]}: regions ")
    )
    browser.press(Keys.ENTER, Keys.TAB)
    assert browser.driver.switch_to.active_element.get_attribute("class") == "frame"  # of the next card
    assert browser.lit(first) == places(attention["global"]["regions"][1])
    assert browser.one(f"{first} [aria-pressed=true]").text == attention["words"][1]
    browser.driver.execute_script("document.querySelector('article [aria-pressed=true]').focus()")
    browser.press(Keys.ESCAPE, Keys.TAB)
    assert browser.lit(first) == set()
    assert browser.complaints() == []


def test_a_click_pins_a_word(browser: Browser) -> None:
    attention = browser.entries[0]["attention"]
    words = browser.all("article:first-child .word")
    words[0].click()
    browser.hover(browser.one("h1"))
    assert browser.lit("article:first-child") == places(attention["global"]["regions"][0])
    browser.hover(words[1])
    assert browser.lit("article:first-child") == places(attention["global"]["regions"][1])
    words[0].click()
    browser.hover(browser.one("h1"))
    assert browser.lit("article:first-child") == set()
    assert browser.complaints() == []


def test_filters_and_order(browser: Browser) -> None:
    entries = browser.entries
    scores = [entry["scores"]["cider"] for entry in entries]
    scored = [index for index, value in enumerate(scores) if value is not None]
    assert browser.shown() == list(range(len(entries)))
    Select(browser.one("#order")).select_by_visible_text("worst first")
    assert [scores[index] for index in browser.shown()] == [*sorted(scores[i] for i in scored), None, None]
    Select(browser.one("#order")).select_by_visible_text("best first")
    best = sorted((scores[index] for index in scored), reverse=True)
    assert [scores[index] for index in browser.shown()] == [*best, None, None]
    browser.set("#order", "given")

    browser.one("#find").send_keys("3.PNG")
    assert [entries[index]["id"] for index in browser.shown()] == ["3.png"]
    browser.one("#find").send_keys(" nowhere")
    assert (browser.shown(), browser.one("#nothing").is_displayed()) == ([], True)
    browser.one("#reset").click()
    assert len(browser.shown()) == len(entries)

    browser.set("#status", "rejected/empty")
    assert [entries[index]["id"] for index in browser.shown()] == ["empty.png"]
    assert "empty" in browser.one("article .error").text
    browser.set("#status", "")

    names = ("log_probability", "cider")
    for name in names:
        browser.set("#score", name)
        values = {index: entries[index]["scores"][name] for index in scored}
        least, most = min(values.values()), max(values.values())
        browser.set("#low", "40")
        bound = least + 0.4 * (most - least)
        assert browser.shown() == [index for index, value in values.items() if value >= bound - 1e-6]
        browser.set("#low", "0")
    assert len(browser.shown()) == len(entries)
    assert browser.complaints() == []


def test_references_and_boxes_are_shown_on_request(browser: Browser) -> None:
    entry = browser.entries[0]
    assert not browser.one("article:first-child .texts").is_displayed()
    for name in ("texts", "boxes"):
        browser.driver.execute_script(f"document.getElementById('{name}').click()")
    assert browser.one("article:first-child .texts").is_displayed()
    assert browser.texts("article:first-child .texts ul li") == entry["references"]
    captions = [text for text, _ in entry["captions"]]
    assert browser.texts("article:first-child .texts ol li > span:first-child") == captions
    assert len(browser.all("article:first-child .stage.outlined .box")) == len(entry["regions"])
    assert browser.complaints() == []


def test_the_large_view_shows_groupings_and_collocations(browser: Browser) -> None:
    entry = browser.entries[0]
    attention = entry["attention"]
    browser.one("article:first-child .frame").click()
    assert browser.one("#detail").is_displayed()
    assert browser.texts(".regions-figure button") == [region[4] for region in entry["regions"]]
    tiles = browser.texts(".collocations-figure .tiles:nth-of-type(1) .tile")
    pairs = attention["collocations"][0]
    first = [
        f"{entry['attributes'][index][0]} {percent}"
        for index, percent in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    assert tiles[: len(first[:4])] == first[:4]
    browser.hover(browser.one(".regions-figure button:nth-of-type(2)"))
    assert browser.lit("#detail") == places(attention["groupings"][1]) | {1}
    smallest = min(
        range(len(entry["regions"])), key=lambda i: entry["regions"][i][2] * entry["regions"][i][3]
    )
    browser.hover(browser.one(f"#detail .box[data-region='{smallest}']"))
    assert browser.lit("#detail") == places(attention["groupings"][smallest]) | {smallest}
    browser.hover(browser.one("#detail .word"))
    assert browser.lit("#detail") == places(attention["global"]["regions"][0])
    browser.one("#next").click()
    assert browser.one("#detail-name").text == browser.entries[1]["id"]
    browser.press(Keys.ESCAPE)
    assert not browser.one("#detail").is_displayed()
    assert browser.complaints() == []


def test_light_and_dark(browser: Browser) -> None:
    def background() -> str:
        return browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")

    def prefer(theme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefer("light")
    light = background()
    prefer("dark")
    dark = background()
    assert light != dark
    prefer("light")
    browser.one("#theme").click()
    assert (background(), browser.one("#theme").get_attribute("aria-pressed")) == (dark, "true")
    browser.one("#theme").click()
    assert (background(), browser.one("#theme").get_attribute("aria-pressed")) == (light, "false")
    assert browser.complaints() == []


def test_a_screenshot_shows_the_images(browser: Browser) -> None:
    browser.wait("return [...document.images].length && [...document.images].every((one) => one.complete)")
    found = Image.open(io.BytesIO(browser.one("article:first-child img").screenshot_as_png)).convert("RGB")
    colors = found.getcolors(maxcolors=1 << 24) or []
    assert len(colors) > 500
    assert max(count for count, _ in colors) < 0.5 * found.width * found.height
    assert browser.complaints() == []


def test_markup_in_texts_is_escaped(driver: webdriver.Chrome, tmp_path: Path) -> None:
    row = evil_row()
    failed = runs.row("b", "failed", error=row["id"], error_kind="<b>")
    entries = [gallery_page.entry(row, references=[row["id"]]), gallery_page.entry(failed)]
    out = tmp_path / "evil.html"
    out.write_text(
        gallery_page.render(entries, title=row["id"], runs=[gallery_page.Run(total=2, model="<i>")])
    )
    browser = Browser(driver)
    browser.open(out)
    assert browser.texts("article .caption") == [row["caption"]]
    assert browser.texts("h1") == [row["id"]]
    assert row["id"] in browser.texts("article .error")[0]
    browser.one("article:first-child .frame").click()
    assert browser.texts("#detail-name") == [row["id"]]
    assert browser.all("article script, dialog script, article b b, #cards img, #detail img") == []
    assert browser.complaints() == []


def test_two_thousand_images_are_rendered_on_scrolling(driver: webdriver.Chrome, tmp_path: Path) -> None:
    rows = [
        runs.row(
            f"{number}.jpg", captions=[{"text": "a", "log_probability": -number / 10}], width=60, height=40
        )
        for number in range(2000)
    ]
    out = tmp_path / "large.html"
    out.write_text(
        gallery_page.render(
            [gallery_page.entry(row) for row in rows],
            title="Many",
            runs=[gallery_page.Run(total=9000, model="m")],
        )
    )
    browser = Browser(driver)
    browser.open(out)
    assert len(browser.shown()) == 2000
    assert "2000, the first of 9,000 images" in browser.one("#summary").text
    assert 0 < len(browser.all("article .caption")) < 100
    browser.set("#order", "worst")
    browser.wait("return document.querySelector('article .caption')?.textContent === 'a picture of 1999.jpg'")
    browser.driver.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    browser.wait("return document.querySelector('article:last-child .caption')")
    assert browser.texts("article:last-child .caption") == ["a picture of 0.jpg"]
    browser.wait("return !document.querySelector('article:first-child .caption')")
    assert len(browser.all("article .caption")) < 100
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def endpoint_gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a captioner of whole images."""
    folder = tmp_path_factory.mktemp("endpoint")
    with serve() as server:
        run = caption_with_endpoint(folder, server.url)
    make_gallery(GalleryConfig(run=str(run), out=str(folder / "gallery.html")))
    return folder / "gallery.html"


def test_captions_without_regions(driver: webdriver.Chrome, endpoint_gallery: Path) -> None:
    browser = Browser(driver)
    browser.open(endpoint_gallery)
    assert browser.texts("article .caption")[:2] == ["an old caption", "sks, image 1 for 'say.'"]
    assert browser.all("article .sees, article .box") == []
    assert not browser.one("#boxes-switch").is_displayed()
    assert not browser.one("#views").is_displayed()
    assert browser.texts("article:first-child .flag") == ["kept"]
    browser.one("article:nth-child(2) .frame").click()
    assert browser.texts("#detail .texts h3") == [
        "Prompt \u201cshort\u201d", "Prompt \u201clong\u201d", "As the captioner wrote it",
    ]  # fmt: skip
    assert browser.texts("#detail .texts li span:first-child") == [
        "sks, image 1 for 'say.'",
        "sks, image 1 for 'describe.'",
    ]
    assert browser.texts("#detail .texts .raw") == ["image 1 for 'Say.'"]
    browser.press(Keys.ESCAPE)
    assert browser.texts("#flag option") == ["all (4)", "kept (1)", "no flag (3)"]
    browser.set("#flag", "input")
    assert browser.shown() == [0]
    browser.set("#flag", "none")
    assert browser.shown() == [1, 2, 3]
    assert browser.complaints() == []


def test_flags_and_clip_scores(driver: webdriver.Chrome, tmp_path: Path) -> None:
    flags = [{}, {"repeats": True}, {"low_clip_score": True, "repeats": True}, {"truncated": True}]
    scores = [0.7, 0.9, 0.1, None]
    rows = [
        runs.row(
            f"{number}.jpg",
            captions=[
                {"text": text, "log_probability": -1.0, "clip_score": score}
                for text in (f"a picture of {number}.jpg", "another")
            ],
            clip_score=score,
            width=60,
            height=40,
            **mine,
        )
        for number, (mine, score) in enumerate(zip(flags, scores, strict=True))
    ]
    entries = [gallery_page.entry(row) for row in [*rows, runs.row("bad.jpg", "failed")]]
    out = tmp_path / "flags.html"
    out.write_text(gallery_page.render(entries, title="Flags", runs=[gallery_page.Run(total=5, model="m")]))
    browser = Browser(driver)
    browser.open(out)
    options = [
        "all (5)",
        "low CLIP-S (1)",
        "repeats itself (2)",
        "cut at its maximum length (1)",
        "no flag (1)",
    ]
    assert browser.texts("#flag option") == options
    assert browser.texts("article:nth-child(3) .flag") == ["low CLIP-S", "repeats itself"]
    for flag, shown in (("repeats", [1, 2]), ("truncated", [3]), ("none", [0]), ("", [0, 1, 2, 3, 4])):
        browser.set("#flag", flag)
        assert browser.shown() == shown
    browser.set("#score", "clip")
    browser.set("#order", "worst")
    assert browser.shown() == [2, 0, 1, 3, 4]
    browser.set("#flag", "truncated")
    browser.one("#find").send_keys("nowhere")
    browser.one("#reset").click()
    assert len(browser.shown()) == 5
    browser.one("article:first-child .frame").click()
    assert browser.texts("#detail .texts h3") == ["Best captions, log-probability, CLIP-S"]
    assert browser.texts("#detail .texts .number") == ["\u22121.00 \u00b7 0.100"] * 2
    assert browser.complaints() == []


def test_the_image_of_the_large_view(driver: webdriver.Chrome, gallery: Path, tmp_path: Path) -> None:
    entry = Page(gallery.read_text()).data["entries"][0]
    options = {"gallery": str(gallery), "image": entry["id"], "out": str(tmp_path / "picture.png")}
    config = PictureConfig(word=entry["attention"]["words"][-1], **options)
    found = Image.open(io.BytesIO(photograph(driver, config)))
    assert min(found.size) > 500
    assert len(found.convert("RGB").getcolors(maxcolors=256) or []) > 100
    with pytest.raises(UsageError, match="has no explained word 'unsaid'"):
        photograph(driver, PictureConfig(word="unsaid", **options))
    with pytest.raises(UsageError, match="has no image other"):
        photograph(driver, PictureConfig(word="a", **(options | {"image": "other"})))


@pytest.fixture(scope="module")
def demo_gallery(captioned: Path, photographed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `make demo`, with another run for the scenes."""
    out = tmp_path_factory.mktemp("demo") / "gallery.html"
    places = {"demo/photographs": photographed, "demo/captions": captioned / "run", "demo/gallery.html": out}
    places["demo/scenes/captions.json"] = captioned / "captions.json"
    make_gallery(parse(GalleryConfig, demo_options(places)))
    return out


def test_the_demo_shows_the_photographs_first(
    driver: webdriver.Chrome, demo_gallery: Path, photographed: Path
) -> None:
    browser = Browser(driver)
    browser.open(demo_gallery)
    rows = list(read_rows(str(photographed)))
    count, total = len(rows), len(browser.entries)
    assert {row["status"] for row in rows} == {"ok"}
    assert count >= 12
    script = """return [...document.querySelectorAll('#cards > *')].map((one) =>
        one.dataset.index ?? one.querySelector('h2').textContent)"""
    indices = list(map(str, range(total)))
    expected = ["Photographs", *indices[:count], "Scenes", *indices[count:]]
    assert browser.driver.execute_script(script) == expected
    assert [entry["id"] for entry in browser.entries[:count]] == [row["id"] for row in rows]
    assert all(0 < entry["scores"]["clip"] <= 2.5 for entry in browser.entries[:count])
    assert browser.texts("#cards > .run p")[0].startswith(f"{count} images")
    for place, row in enumerate(rows):
        card = f"#cards > article[data-index='{place}']"
        browser.driver.execute_script("document.querySelector(arguments[0]).scrollIntoView()", card)
        browser.wait(f"return document.querySelector(`{card} img`)?.naturalWidth > 100")
        assert browser.one(f"{card} .caption").text == row["caption"]
    word = browser.one(f"{card} .word")
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", word)
    browser.hover(word)
    assert browser.lit(card) == places(browser.entries[count - 1]["attention"]["global"]["regions"][0])
    assert browser.complaints() == []


def test_a_grid_does_not_hide_the_image(driver: webdriver.Chrome, demo_gallery: Path) -> None:
    """Cells have no labels and no outlines; the large view names them by row and column."""
    browser = Browser(driver)
    browser.open(demo_gallery)
    chips = browser.texts("#cards > article[data-index='0'] .sees .chip")
    words = [word for word, _ in browser.entries[0]["attributes"]]
    assert set(chips) < set(words)
    assert "a" not in chips
    browser.one("#cards > article[data-index='0'] .frame").click()
    assert browser.all("#detail .stage.outlined, #detail .regions-figure") == []
    browser.hover(browser.one("#detail .word"))
    first, *_ = browser.entries[0]["attention"]["global"]["regions"][0]
    row, column = divmod(first - 1, math.isqrt(len(browser.entries[0]["regions"]) - 1))
    expected = "image" if first == 0 else f"{row + 1}, {column + 1}"
    assert browser.texts("#detail .meters ol:first-of-type .meter > span:first-child")[0] == expected
    assert browser.complaints() == []


def test_runs_are_grouped_in_every_order(driver: webdriver.Chrome, demo_gallery: Path) -> None:
    browser = Browser(driver)
    browser.open(demo_gallery)
    runs_of = [entry["run"] for entry in browser.entries]
    browser.set("#score", "log_probability")
    for order in ("worst", "best"):
        browser.set("#order", order)
        shown = browser.shown()
        assert [runs_of[index] for index in shown] == sorted(runs_of)
        values = [browser.entries[index]["scores"]["log_probability"] for index in shown[: runs_of.count(0)]]
        assert values == sorted(values, reverse=order == "best")
    browser.one("#find").send_keys("two-dogs")
    assert browser.texts("#cards > .run h2") == ["Photographs"]
    assert browser.one("#summary").text == f"1 of {len(runs_of)} images of 2 runs"
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def plain_gallery(captioned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery without references and explanations, which has other controls."""
    out = tmp_path_factory.mktemp("plain") / "gallery.html"
    make_gallery(GalleryConfig(run=str(captioned / "run"), out=str(out), explain=0))
    return out


@pytest.mark.parametrize("kind", ["gallery", "plain_gallery", "demo_gallery", "endpoint_gallery"])
@pytest.mark.parametrize("width", [320, 360, 390, 430, 700, 1200])
def test_no_control_is_clipped_on_a_phone(
    browser: Browser, request: pytest.FixtureRequest, kind: str, width: int
) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.open(request.getfixturevalue(kind))
        clipped = """return [...document.querySelectorAll('header .switch span, header label, header button')]
            .filter((one) => one.offsetParent).filter((one) => {
                const own = one.getBoundingClientRect();
                const around = (one.closest('.switch') || one.parentElement).getBoundingClientRect();
                return one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline'
                    || own.right > around.right + 1 || own.left < around.left - 1
                    || own.right > window.innerWidth || own.left < 0;
            }).map((one) => one.textContent)"""
        assert "references" in browser.texts("header .switch span")
        assert browser.driver.execute_script(clipped) == []
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
