"""The picture of the gallery in README: the large view of an image while a word is pointed at.

After `make demo`, with Debian's chromium and chromium-driver (tests/install_browser.sh):

    python docs/gallery_picture.py --gallery demo/gallery.html --image test-000130.jpg --word black \
        --out docs/images/gallery.png
"""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

from glied.config import parse, run
from glied.errors import UsageError

PROGRAMS = ("chromium", "chromedriver")
COLORS = 255


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """What to photograph."""

    gallery: str
    """Page of jobs/gallery.py."""
    image: str
    """Id of the image."""
    word: str
    """Word of its caption that is pointed at."""
    out: str
    """The PNG file to write."""
    view: str = "local"
    """Attention shown, global or local."""
    width: int = 1180
    """Pixels of the window."""
    height: int = 640
    """Pixels of the window."""


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[webdriver.Chrome]:
    """Headless Chromium with a window of this size, whose console is kept.

    Raises:
        UsageError: Chromium or its driver is not installed.
    """
    program, driver_program = map(shutil.which, PROGRAMS)
    if not program or not driver_program:
        raise UsageError("chromium or chromedriver is missing: run tests/install_browser.sh as root")
    options = ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=ChromeService(driver_program))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver
    finally:
        driver.quit()


def photograph(driver: webdriver.Chrome, config: PictureConfig) -> bytes:
    """The large view as a PNG file of few colors.

    Raises:
        UsageError: the page has no such image, or its caption no such word.
    """
    reduced = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": reduced})
    driver.get(Path(config.gallery).resolve().as_uri())
    opened = driver.execute_script(
        """const index = ENTRIES.findIndex((entry) => entry.id === arguments[0]);
        if (index < 0) return false;
        chooseView(arguments[1]);
        openDetail(ENTRIES[index], CARDS[index]);
        document.activeElement.blur();
        return true""",
        config.image,
        config.view,
    )
    if not opened:
        raise UsageError(f"{config.gallery} has no image {config.image}")
    words = [one for one in driver.find_elements(By.CSS_SELECTOR, "#detail .word") if one.text == config.word]
    if not words:
        raise UsageError(f"the caption of {config.image} has no explained word {config.word!r}")
    ActionChains(driver).move_to_element(words[0]).perform()
    shot = Image.open(io.BytesIO(driver.find_element(By.ID, "detail").screenshot_as_png)).convert("RGB")
    sink = io.BytesIO()
    shot.quantize(COLORS, dither=Image.Dither.NONE).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def main() -> int:
    """Write the picture and say how large it is."""
    config = parse(PictureConfig, description=__doc__)
    with chromium(config.width, config.height) as driver:
        data = photograph(driver, config)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    print(f"{config.out}: {len(data) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    run(main)
