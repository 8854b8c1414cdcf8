"""The report in a real browser, opened as a file; tests/install_browser.sh installs the browser."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from docs.gallery_picture import PROGRAMS, chromium
from glied.reports.training_report import ReportConfig, make_report
from tests.training.logged import make_run

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)),
    reason="no chromium and chromedriver here: run tests/install_browser.sh as root",
)


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with chromium() as started:
        yield started


def prefer(driver: webdriver.Chrome, theme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def corner(driver: webdriver.Chrome) -> tuple[int, ...]:
    """Return the background color of the first figure as drawn."""
    shot = Image.open(io.BytesIO(driver.find_element(By.TAG_NAME, "img").screenshot_as_png)).convert("RGB")
    colors = shot.getcolors(maxcolors=1 << 24) or []
    return tuple(max(colors)[1])  # type: ignore[arg-type]


def test_figures_follow_the_theme_and_tables_open(driver: webdriver.Chrome, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    make_report(ReportConfig(runs=[make_run(tmp_path / name) for name in ("one", "two")], out=str(out)))
    prefer(driver, "light")
    driver.get(out.as_uri())
    sizes = driver.execute_script("return [...document.images].map((one) => one.naturalWidth)")
    assert len(sizes) == 3
    assert min(sizes) > 200
    assert corner(driver) == (255, 254, 251)
    table = driver.find_element(By.CSS_SELECTOR, "figure table")
    assert not table.is_displayed()
    driver.find_element(By.CSS_SELECTOR, "figure summary").click()
    assert table.is_displayed()
    prefer(driver, "dark")
    driver.get(out.as_uri())
    assert corner(driver) == (30, 32, 36)
    assert driver.get_log("browser") == []
