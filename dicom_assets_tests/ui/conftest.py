"""Dagster's UI on an embedded service, and a browser to look at it with."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dicom_assets.demo.dagster_server import DagsterServer
from dicom_assets.demo.embedded import Day, fill, open_service, point_at, prepare_home
from dicom_assets.emulator.http.server import serve
from dicom_assets_tests.processes import PATIENCE_SECONDS, clean_environment, free_port

SCREENSHOTS = Path(__file__).parent / ".screenshots"
DAY = Day(hours=24, instances=300)
BY_HAND = {"DICOM_CATCH_UP_RUNS": "0", "DICOM_SENSOR_INTERVAL_SECONDS": "0"}
"""Nothing is materialised but by clicks."""
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Lake:
    """What the UI is about."""

    url: str
    """Of the UI."""
    folder: Path
    """Of the tables."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """The UI and the daemon on a service with a day of changes, and empty tables."""
    folder = tmp_path_factory.mktemp("ui")
    with open_service(folder / "service") as service:
        fill(service, DAY)
        with serve(service) as url:
            home = prepare_home(folder / "dagster")
            env = clean_environment(DICOM_STORAGE_URL=str(folder), **BY_HAND)
            env = point_at(url, folder / "service", DAY.start, DAY.end, env)
            with DagsterServer({**env, "DAGSTER_HOME": str(home)}, free_port(), home / "dagster.log") as server:
                server.wait_until_it_answers()
                yield Lake(server.url, folder / "dicom")


@pytest.fixture(scope="module")
def browser():
    """A headless browser; without one the tests are skipped, or fail where REQUIRE_BROWSER is set."""
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if executable is None:
        reason = "no Chromium: install it (Debian: apt-get install chromium), or name it in CHROMIUM"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # No sandbox: it needs rights that a container or root does not have, and only our own pages are opened.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, lake: Lake, request):
    """A page of the UI; what it shows at the end is kept, whatever the end."""
    expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    context = browser.new_context(base_url=lake.url, viewport={"width": 1280, "height": 700}, device_scale_factor=2)
    context.add_init_script("localStorage.setItem('dagster-nav-collapsed', 'true')")
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    page = context.new_page()
    yield page
    keep(page, request.node.name.removeprefix("test_"))
    context.close()


def keep(page: Page, name: str, *, cut: bool = False) -> None:
    """Keeps what the page shows, where CI and `make screenshots` find it; or of the asset graph the graph alone."""
    SCREENSHOTS.mkdir(exist_ok=True)
    path = SCREENSHOTS / f"{name.replace('_', '-')}.png"
    if not cut:
        page.screenshot(path=path)
        return
    boxes = [node.bounding_box() for node in page.locator("foreignObject").all()]
    seen = [box for box in boxes if box]
    left, top = (min(box[side] for box in seen) - 20 for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in seen) + 20
    bottom = max(box["y"] + box["height"] for box in seen) + 20
    page.screenshot(path=path, clip={"x": left, "y": top, "width": right - left, "height": bottom - top})
