"""What a data engineer does in Dagster's UI, done by a browser."""

import re
from datetime import timedelta

from deltalake import DeltaTable
from playwright.sync_api import Page, expect

from dicom_assets.defs.partitions import PARTITION_FORMAT
from dicom_assets_tests.ui.conftest import DAY, keep

ASSETS = ("change_feed", "instance", "series", "study", "file_index")
FIRST, LAST = (f"{DAY.start + timedelta(hours=hour):{PARTITION_FORMAT}}" for hour in (0, DAY.hours - 1))


def materialize_all(page: Page, partitions: str) -> None:
    """Launches all five assets for some partitions, and opens what was launched."""
    page.goto("/asset-groups")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    box = dialog.locator("input[type=text]")
    box.fill(partitions)
    box.press("Tab")
    dialog.get_by_role("button", name=re.compile("^Launch")).click()
    page.get_by_text("View", exact=True).click()


def expect_materialized(page: Page, count: int) -> None:
    for name in ASSETS:
        page.goto(f"/assets/{name}?view=partitions")
        expect(page.get_by_text(f"Materialized ({count})")).to_be_visible()


def show_graph(page: Page) -> None:
    """Opens the graph with so much room that its nodes say all they have to say."""
    page.set_viewport_size({"width": 1760, "height": 760})
    page.goto("/asset-groups")
    page.locator("button", has=page.get_by_label("panel_show_right")).click()


def test_asset_graph_shows_the_five_assets(page):
    page.goto("/asset-groups")
    for name in ASSETS:
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_hour_is_materialised_by_clicks(page):
    materialize_all(page, FIRST)
    expect(page).to_have_url(re.compile("/runs/[0-9a-f-]{36}"))
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    keep(page, "run")
    expect_materialized(page, 1)


def test_day_is_backfilled_by_clicks_in_one_run(page):
    materialize_all(page, f"[{FIRST}...{LAST}]")
    expect(page).to_have_url(re.compile("/runs/b/"))
    expect(page.get_by_text("100% completed")).to_have_count(len(ASSETS))
    keep(page, "backfill")
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_text("Success", exact=True)).to_have_count(1)
    expect_materialized(page, DAY.hours)
    show_graph(page)
    expect(page.get_by_text("100% filled")).to_have_count(len(ASSETS))
    keep(page, "asset_graph", cut=True)


def test_asset_explains_itself_and_its_columns(page):
    page.goto("/assets/study?view=overview")
    expect(page.get_by_text("One row is one study with at least one live instance")).to_be_visible()
    for text in ("imaging-data", "Delta Lake", "dicom_tag: 00080020", "from: instance.studyDate"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    expect(page.locator("a[href*='docs/architecture.md']").first).to_be_visible()


def test_failing_check_is_visible(page, lake):
    materialize_all(page, FIRST)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    open_check(page)
    expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    DeltaTable(lake.folder / "series").delete()
    page.goto("/locations/dicom_assets/jobs/audit_lake/playground")
    page.get_by_role("button", name="Launch run").click()
    expect(page.get_by_text("Failure", exact=True).first).to_be_visible()
    keep(page, "audit")
    open_check(page)
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    keep(page, "failed_check")


def open_check(page: Page) -> None:
    """Opens what `series` says of its check."""
    page.goto("/assets/series?view=checks")
    page.get_by_text("agrees_with_instance", exact=True).first.click()
