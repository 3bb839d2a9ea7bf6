"""The benchmarks run and come to the right tables, on a tiny feed. How fast they are is not asked here."""

import json
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable

from bench import capacity, deep, engines, growth, headers, million, orchestration, run
from bench import feed as feeds
from bench.capacity_page import Line, build_parts, storage_part
from bench.check import count_rows, digest_tables, expected_counts, is_correct
from bench.document import fill_in
from bench.feed import Feed, Spec, open_feed
from bench.history import ROWS_PER_HOUR, build_history
from bench.measure import PUBLISHED, ROOT, measure
from bench.report import (
    CAPACITY,
    deep_table,
    engines_table,
    fan_out_table,
    find_crossover,
    headers_table,
    hour_table,
    million_table,
    orchestration_table,
    targets_of_headers,
    targets_of_orchestration,
)
from bench.server import serving

pytestmark = pytest.mark.benchmark

SPEC = Spec(changes=450, study_size=20)


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeds, "CACHE", tmp_path_factory.mktemp("cache"))
        yield open_feed(SPEC)


@pytest.fixture(scope="module")
def url(feed: Feed):
    with serving(feed.folder) as url:
        yield url


def contender_of(name: str) -> run.Contender:
    return next(contender for contender in run.CONTENDERS if contender.name == name)


def fetch(url: str, query: str) -> list[dict]:
    with urllib.request.urlopen(f"{url}/v2/changefeed?{query}") as answer:
        return json.load(answer)


def test_feed_is_seeded(feed, tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "CACHE", tmp_path)
    again = open_feed(SPEC)
    assert again.folder != feed.folder
    assert (again.folder / "entries.bin").read_bytes() == (feed.folder / "entries.bin").read_bytes()


def test_feed_has_the_changes_that_were_asked_for(url):
    entries = [entry for offset in (0, 200, 400) for entry in fetch(url, f"offset={offset}&limit=200")]
    actions = [entry["action"] for entry in entries]
    assert len({entry["sequence"] for entry in entries}) == SPEC.changes
    assert (actions.count("Update"), actions.count("Delete")) == (45, 22)
    assert all(("metadata" in entry) == (entry["state"] != "Deleted") for entry in entries)


def test_server_gives_any_window(url):
    half = "startTime=2025-03-01T00:30:00Z&endTime=2025-03-01T01:00:00Z"
    assert [entry["sequence"] for entry in fetch(url, f"{half}&offset=3&limit=2")] == [229, 230]
    assert fetch(url, f"{half}&offset=225&limit=1&includeMetadata=false") == []
    (entry,) = fetch(url, "offset=0&limit=1&includeMetadata=false")
    assert entry["sequence"] == 1
    assert "metadata" not in entry


def test_comparison_of_ours_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "CACHE", tmp_path)
    monkeypatch.setattr(run, "CACHE", tmp_path)
    result = run.compare([contender_of("ours_inprocess")], SPEC, rounds=1)
    (line,) = (line for line in hour_table(result).splitlines() if "in process" in line)
    assert " | 5 | yes | " in line


def test_dagster_run_comes_to_the_right_tables(url, feed, tmp_path):
    contender = contender_of("ours_dagster")
    said = contender.run(url, tmp_path, feed).said
    assert is_correct(tmp_path, feed, contender.tables)
    assert said["seconds"] > said["work_seconds"] > 0


def test_tables_that_lack_a_row_are_not_correct(url, feed, tmp_path):
    contender_of("ours_inprocess").run(url, tmp_path, feed)
    assert not is_correct(tmp_path, replace(feed, instances=feed.instances + 1), 5)
    assert not is_correct(tmp_path, replace(feed, digest="0" * 16), 1)


def test_digest_of_tables_knows_rows_and_not_files(url, feed, tmp_path):
    digests = []
    for lake in (tmp_path / "one", tmp_path / "other"):
        contender_of("ours_inprocess").run(url, lake, feed)
        digests.append(digest_tables(lake))
    assert digests[0] == digests[1]
    DeltaTable(lake / "study").delete("studyInstanceUid LIKE '%7'")
    changed = digest_tables(lake)
    assert [name for name in changed if changed[name] != digests[0][name]] == ["study"]


def test_extraction_reads_every_entry(url, feed, tmp_path):
    assert contender_of("ours_extract").run(url, tmp_path, feed).said["rows"] == feed.changes


@pytest.mark.parametrize("name", ["bare", "download"])
def test_download_gets_every_byte(name, url, feed, tmp_path):
    script = str(ROOT / "bench" / "peers" / f"{name}.py")
    said = measure([sys.executable, script, url, str(tmp_path), feed.start, feed.end]).said
    assert said["bytes"] == feed.size_bytes + 3  # of three pages, a bracket more each than commas at their ends


def test_hour_into_a_history(tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "CACHE", tmp_path)
    lake = Path(tmp_path / "lake")
    build_history(lake, ROWS_PER_HOUR)
    feed = open_feed(Spec(400, delete_share=0.05, study_size=70, history=ROWS_PER_HOUR, scattered=True))
    with serving(feed.folder) as url:
        measure([sys.executable, "-m", "bench.ours_inprocess", url, str(lake), feed.start, feed.end])
    assert count_rows(lake) == expected_counts(feed)


def test_hour_by_both_engines_is_reported(spark_url, tmp_path, tmp_path_factory, worker_id, monkeypatch):
    for module in (feeds, growth, engines):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    own = tmp_path_factory.getbasetemp()
    server = engines.Server(spark_url, (own if worker_id == "master" else own.parent) / "spark")
    cases = engines.compare([(ROWS_PER_HOUR, True)], 400, 1, server, warm_up=False)
    assert all(case["is_equal"] for case in cases)
    assert [case["spark_cpu_seconds"]["median"] > 0 for case in cases] == [False, True]
    lines = engines_table({"cases": cases}).splitlines()
    assert [line.split(" | ")[2] for line in lines[2:4]] == ["delta-rs", "Spark"]
    assert all(line.endswith(" | yes |") for line in lines[2:4])


@pytest.mark.parametrize(
    ("spark", "found"),
    [((9, 12, 30), "no crossover up to 300 rows"), ((9, 12, 20), "crossover between 200 and 300 rows")],
)
def test_crossover_is_told_or_that_there_is_none(spark, found):
    cases = [
        {"rows": rows, "scattered": False, "engine": engine, "total_cpu_seconds": {"median": cpu}}
        for engine, figures in (("delta-rs", (3, 5, 25)), ("spark", spark))
        for rows, cpu in zip((100, 200, 300), figures, strict=True)
    ]
    assert found in find_crossover({"cases": cases}, scattered=False)
    assert not find_crossover({"cases": cases}, scattered=True)


def test_figures_of_capacity_say_where_they_come_from():
    line = Line(((100, 2.0), (1000, 3.0), (2000, 5.0)))
    assert line.at(1020) == (3.0, "measured")
    assert line.at(1500) == (4.0, "interpolated")
    assert line.at(10_000) == (21.0, "extrapolated")
    assert Line(((100, 5.0), (200, 4.0))).at(1000) == (5.0, "extrapolated")  # nothing is taken to fall


def test_page_of_capacity_says_what_the_results_say():
    results = {path.stem: json.loads(path.read_text()) for path in PUBLISHED.glob("*.json")}
    text = CAPACITY.read_text()
    assert fill_in(CAPACITY, text, build_parts(results)) == text, "stale: python -m bench.report"


def test_sizes_of_a_lake_and_of_what_an_hour_adds(tmp_path, monkeypatch):
    for module in (feeds, growth, capacity):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    hour = capacity.measure_hour(ROWS_PER_HOUR, 2_000)
    lake = capacity.measure_lake(ROWS_PER_HOUR)
    assert hour["is_correct"]
    added = {name: hour["after"][name]["rows"] - hour["before"][name]["rows"] for name in ("change_feed", "instance")}
    assert added["change_feed"] == 2_000
    assert hour["metadata"]["raw_bytes"] > hour["metadata"]["alone_bytes"] > 0
    assert (
        lake["as_written"]["instance"]["checkpoint_bytes"] == 0 < lake["after_upkeep"]["instance"]["checkpoint_bytes"]
    )
    page = storage_part({"hour": hour, "lakes": [lake, {**lake, "rows": 2 * ROWS_PER_HOUR}]})
    assert page.count("(extrapolated)") >= 4 * 4


def test_rows_scanned_for_windows_in_parts_and_at_one_go_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "CACHE", tmp_path)
    monkeypatch.setattr(deep, "PAGES_PER_PART", 2)
    cases = deep.compare([400, 2000], 1e7)
    *_, last = deep_table({"cases": cases}).splitlines()
    assert cases[1]["one"]["rows_scanned"] >= 200 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10) + 2000  # and a proof
    in_parts = cases[1]["parts"]["rows_scanned"]
    # Five times a page, another, and a proof behind them; and the last five rows again, where a page behind them is
    # asked for before it is known to be the last.
    assert in_parts in {5_000, 5_005}
    assert last.startswith(f"| 2,000 | {in_parts:,} | ")
    assert last.endswith("| yes |")


def test_an_hour_under_a_limit_of_memory_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "CACHE", tmp_path)
    case = million.run_under(1024, open_feed(replace(SPEC, brief=True)), tmp_path)
    line = million_table({"cases": [case]}).splitlines()[-1]
    assert line.startswith("| 1,024 MiB | ")
    assert line.endswith("| yes |")


def test_headers_are_reported_with_the_ratio_to_each_of_the_others():
    contenders = [
        {
            "name": name,
            "label": label,
            "is_correct": name != "headers_adlfs",
            "headers_per_second": 60 // seconds,
            "seconds": {"median": seconds, "min": seconds, "max": seconds},
            "cpu_seconds": {"median": 1},
            "peak_mib": {"median": 100},
        }
        for (name, label), seconds in zip(headers.CONTENDERS.items(), (2, 6, 1), strict=True)
    ]
    result = {"headers": 60, "contenders": contenders}
    assert [line.split(" | ")[-1] for line in headers_table(result).splitlines()[2:]] == ["yes |", "yes |", "**no** |"]
    assert [(target.name, target.figure, target.is_met) for target in targets_of_headers(result)] == [
        ("60 headers sooner than adlfs", "3.00 × as fast", True),
        ("60 headers sooner than azure-storage-blob", "0.50 × as fast", False),
    ]


def test_what_dagster_adds_is_reported_with_the_imports_ratio(monkeypatch):
    monkeypatch.setattr(orchestration, "IMPORTS", dict.fromkeys(orchestration.IMPORTS, "pass"))
    imports = orchestration.measure_imports(1)
    two = {"median": 2.0, "min": 1.0, "max": 3.0}
    names = ("until_start_seconds", "run_seconds", "launch_to_success_seconds")
    result = {
        "changes_per_hour": 200,
        "imports": imports,
        "import_ratio": 1.6,
        "slowest_imports_milliseconds": {"dagster": 421.4},
        "chain": {"work_seconds": two, "orchestration_seconds": two},
        "launches": {executor: dict.fromkeys(names, two) for executor in orchestration.EXECUTORS},
    }
    table = orchestration_table(result)
    assert "where numpy is installed" in table
    assert table.count(" | 2.00 | 1.00–3.00 |") == 8
    assert [target.is_met for target in targets_of_orchestration(result)] == [True, False]


def test_month_by_several_workers_is_told_beside_the_first_case():
    common = {"reading_at_once": 4, "reading_seconds": 9.6, "merging_seconds": 50, "is_correct": True}
    cases = [
        {"workers": workers, "killed": killed, "seconds": seconds, **common}
        for workers, killed, seconds in ((1, 0, 300), (4, 0, 100), (4, 1, 120))
    ]
    assert [line.split(" | ")[:3] for line in fan_out_table({"cases": cases}).splitlines()[2:]] == [
        ["| 1", "300", "1.00"],
        ["| 4", "100", "3.00"],
        ["| 4, one of them killed", "120", "2.50"],
    ]


def test_service_that_is_late_is_late_with_every_page(feed):
    with serving(feed.folder, latency_seconds=0.2) as url:
        before = time.monotonic()
        assert len(fetch(url, "limit=200")) == 200
        assert time.monotonic() - before >= 0.2
