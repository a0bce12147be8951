"""A real browser without a window, as a person at a keyboard uses it."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    *("disable-dev-shm-usage", "hide-scrollbars", "lang=en-US"),
)

#: Of those that a page may have, the most that a test presses Tab for.
_MOST_STOPS = 60

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="no chromium and chromedriver here, in which the console is looked at",
)


class Tab:
    """
    A page in the browser.

    Args:
        driver: Selenium's.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def text(self, selector: str) -> str:
        """Return what a person reads there; nothing if it is not to be seen."""
        try:
            return str(self.driver.find_element(By.CSS_SELECTOR, selector).text)
        except (NoSuchElementException, StaleElementReferenceException):
            return ""

    def texts(self, selector: str) -> list[str]:
        """Return what a person reads in each of them."""
        try:
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            return [str(each.text) for each in found]
        except StaleElementReferenceException:
            return []

    def until(self, is_so: Callable[[], Any]) -> None:
        """Look again and again until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, self.text("body")

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what *script* returns."""
        return self.driver.execute_script(script, *arguments)

    # --- a keyboard ---------------------------------------------------------------

    def press(self, *keys: str) -> None:
        """Press *keys*, wherever the focus is."""
        # Not to an element: it may be replaced, or be hidden, at any moment.
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """Return what the one with the focus is called."""
        name = "e.ariaLabel || e.id || e.textContent"
        return str(self.run(f"const e = document.activeElement; return {name}"))

    def tab_to(self, name: str) -> None:
        """Press Tab until what is called *name* has the focus, and shows it."""
        seen = []
        for _ in range(_MOST_STOPS):
            self.press(Keys.TAB)
            seen.append(self.focused())
            if seen[-1] == name:
                width = "getComputedStyle(document.activeElement).outlineWidth"
                assert self.run(f"return {width}") != "0px", name
                return
        raise AssertionError((name, seen))

    # --- an eye --------------------------------------------------------------------

    def resize(self, width: int, height: int) -> None:
        """Let the page have so much room."""
        room = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": False,
        }
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", room)

    def prefer(self, scheme: str) -> None:
        """Be somebody who prefers a *scheme* of colours: light or dark."""
        wish = {"name": "prefers-color-scheme", "value": scheme}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [wish, still]}
        )

    def shoot(self, path: Path) -> int:
        """Write what is to be seen to a file; return how many colours it has."""
        assert self.driver.save_screenshot(str(path))
        return len(set(self._pixels()))

    def _pixels(self) -> list[int]:
        """Return every hundredth pixel of what is to be seen."""
        script = """
            const done = arguments[1];
            const image = new Image();
            image.onload = () => {
                const canvas = new OffscreenCanvas(image.width, image.height);
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0);
                const data = context.getImageData(0, 0, image.width, image.height).data;
                const found = [];
                for (let at = 0; at < data.length; at += 400)
                    found.push(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
                done(found);
            };
            image.src = arguments[0];
        """
        shot = f"data:image/png;base64,{self.driver.get_screenshot_as_base64()}"
        with self._blank():
            return list(self.driver.execute_async_script(script, shot))

    @contextmanager
    def _blank(self) -> Iterator[None]:
        """Work in a tab of its own, whose page forbids nothing."""
        before = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        try:
            yield
        finally:
            self.driver.close()
            self.driver.switch_to.window(before)

    def complaints(self) -> list[str]:
        """Return what the page has logged since the last call."""
        return [str(each["message"]) for each in self.driver.get_log("browser")]


@contextmanager
def chromium(directory: Path) -> Iterator[Tab]:
    """Run a browser that keeps what it has in *directory*, and nothing elsewhere."""
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in _FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={directory}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(PATIENCE)
        yield Tab(driver)
    finally:
        driver.quit()
