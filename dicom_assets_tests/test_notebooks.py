"""The notebooks in `examples/`: run on a fresh lakehouse, as saved, and with answers that the service confirms."""

import json
import re
from collections import Counter, defaultdict
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from examples.lake import TODAY, build_lakehouse
from examples.run import NOTEBOOKS, run, setting_cell

NAMES = [path.stem for path in NOTEBOOKS]
ANSWERS = {
    "1-get-started": """{
        "columns": instances.columns, "counts": counts.values.tolist(), "paths": paths.toPandas().values.tolist(),
        "opened": [newest.sopInstanceUid, dataset.SOPInstanceUID, header.SOPInstanceUID],
    }""",
    "2-department": """{
        "per_day": per_day.assign(studyDate=per_day["studyDate"].astype(str)).values.tolist(),
        "by_hour": by_hour.values.tolist(), "thickness": thickness.values.tolist(),
        "files": files[["sopInstanceUid", "filePath"]].values.tolist(), "acquired": acquired.values.tolist(),
        "first_day": first_day, "week_ago": week_ago, "today": today,
    }""",
    "3-time-travel": """{
        "came_in": came_in.values.tolist(), "changed": changed.values.tolist(), "sums": sums.values.tolist(),
        "gone": gone.values.tolist(), "corrected": corrected.values.tolist(),
    }""",
}
"""What each notebook found out, in its own variables."""
DATE, MODALITY, MODEL, THICKNESS, TIME = "00080020", "00080060", "00081090", "00180050", "00080030"
BODY_PART, PATIENT_ID, ACCESSION_NUMBER = "00180015", "00100020", "00080050"


def read(name):
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def as_json(expression):
    """JSON of an expression; rows whose order the query leaves open are sorted."""
    return f"""json.dumps({{
        name: sorted(value, key=str) if isinstance(value, list) and name != "opened" else value
        for name, value in ({expression}).items()
    }}, default=str)"""


@pytest.fixture(scope="module")
def lakehouse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks") / "lakehouse"
    with build_lakehouse(folder) as service:
        yield folder, service.change_feed(limit=10**6)


@pytest.fixture(scope="module")
def fresh(lakehouse):
    """Every notebook run on the fresh lakehouse, and its answers."""
    found = {}
    for name in NAMES:
        notebook = read(name)
        setting_cell(notebook).source = f"LAKEHOUSE = {str(lakehouse[0])!r}"
        question = nbformat.v4.new_code_cell(f"import json\nprint({as_json(ANSWERS[name])})")
        notebook.cells.append(question)
        run(notebook)
        notebook.cells.remove(question)
        found[name] = notebook, json.loads(question.outputs[0].text)
    return found


class Cells(HTMLParser):
    """The texts in the cells of an HTML table: what is seen, however pandas dresses it."""

    def __init__(self, html):
        super().__init__()
        self.texts, self._inside = [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._inside = tag in ("td", "th")
        if self._inside:
            self.texts.append("")

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self._inside:
            self.texts[-1] += data


def seen(output):
    """What a reader sees of an output; of a picture its size alone, since pixels depend on fonts."""
    if output.output_type == "stream":
        return output.name, output.text
    if "image/png" in output.data:
        return "picture", output.data["text/plain"]
    return "table", Cells(output.data["text/html"]).texts


@pytest.mark.parametrize("name", NAMES)
def test_saved_outputs_are_those_of_a_fresh_run(name, fresh):
    saved, ran = code_cells(read(name)), code_cells(fresh[name][0])
    assert [cell.execution_count for cell in saved] == [*range(1, len(saved) + 1)]
    for was, now in zip(saved, ran, strict=True):
        assert [seen(output) for output in was.outputs] == [seen(output) for output in now.outputs], was.source


@pytest.mark.parametrize("name", NAMES)
def test_saved_notebook_shows_pictures_without_warnings_or_where_it_was_run(name):
    outputs = [output for cell in code_cells(read(name)) for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} <= {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == {"1": 1, "2": 3, "3": 1}[name[0]]
    shown = json.dumps([output.get("text") or {**output.data, "image/png": ""} for output in outputs])
    assert not re.search(r"/(home|root|tmp|work|Users|var)/|site-packages|Warning", shown)


def test_notebooks_differ_from_place_to_place_in_their_setting_cell_alone():
    starts = [[cell.source for cell in code_cells(read(name))[:2]] for name in NAMES]
    assert starts == starts[:1] * 3
    assert re.findall(r"^\w+ = .*", starts[0][0], re.MULTILINE) == ['LAKEHOUSE = "../data/lakehouse"']
    for name in NAMES:
        assert not any("sail" in cell.source for cell in code_cells(read(name))[2:])


def first(entry, tag):
    return (entry["metadata"].get(tag, {}).get("Value") or [None])[0]


def day_of(entry):
    date = first(entry, DATE)
    return date and f"{date[:4]}-{date[4:6]}-{date[6:]}"


def key_of(entry):
    return entry["studyInstanceUid"], entry["seriesInstanceUid"], entry["sopInstanceUid"]


def fold(feed):
    """The newest entry of every live instance, by a plain loop."""
    newest = {key_of(entry): entry for entry in feed}
    return {key: entry for key, entry in newest.items() if entry["action"].lower() != "delete"}


def test_first_notebook_counts_and_opens_what_the_service_has(lakehouse, fresh):
    folder, feed = lakehouse
    live = fold(feed)
    answers = fresh["1-get-started"][1]
    assert dict(answers["counts"]) == {
        "change_feed": len(feed),
        "instance": len(live),
        "series": len({key[:2] for key in live}),
        "study": len({key[0] for key in live}),
        "file_index": len(live),
    }
    assert {"sopInstanceUid", "filePath", "sliceThickness"} <= set(answers["columns"])
    assert answers["paths"] == sorted(([e["sopInstanceUid"], e["filePath"]] for e in live.values()), key=str)
    newest = max((e for e in live.values() if first(e, MODALITY) == "CT"), key=lambda e: e["timestamp"])
    assert answers["opened"] == [newest["sopInstanceUid"]] * 3
    assert (folder / "Files" / newest["filePath"]).exists()


def test_second_notebook_counts_what_the_service_has(lakehouse, fresh):
    folder, feed = lakehouse
    live = fold(feed).values()
    answers = fresh["2-department"][1]
    assert (answers["first_day"], answers["week_ago"], answers["today"]) == ("2026-03-16", "2026-03-21", "2026-03-27")
    recent = [e for e in live if (day_of(e) or "") >= answers["first_day"]]

    per_day, by_hour, thickness = defaultdict(set), defaultdict(set), defaultdict(list)
    for entry in recent:
        per_day[day_of(entry), first(entry, MODALITY)].add(entry["studyInstanceUid"])
        if model := first(entry, MODEL):
            by_hour[f"{first(entry, MODALITY)}, {model}", int(first(entry, TIME)[:2])].add(entry["studyInstanceUid"])
    assert answers["per_day"] == sorted(([*k, len(uids)] for k, uids in per_day.items()), key=str)
    assert answers["by_hour"] == sorted(([*k, len(uids)] for k, uids in by_hour.items()), key=str)

    for entry in live:
        modality, model, value = (first(entry, tag) for tag in (MODALITY, MODEL, THICKNESS))
        if modality in ("CT", "MR") and model and value is not None and float(value) <= 50:
            thickness[modality, model, float(value)].append(entry["seriesInstanceUid"])
    expected = [[*key, len(uids), len(set(uids))] for key, uids in thickness.items()]
    assert answers["thickness"] == sorted(expected, key=str)

    cohort = [
        [entry["sopInstanceUid"], entry["filePath"]]
        for entry in recent
        if (first(entry, MODALITY), first(entry, BODY_PART)) == ("CT", "HEAD")
        and day_of(entry) >= answers["week_ago"]
        and float(first(entry, THICKNESS)) <= 5
    ]
    assert answers["files"] == sorted(cohort, key=str)
    assert all((folder / "Files" / path).exists() for _, path in cohort)
    assert sum(row[-1] for row in answers["acquired"]) == len(cohort) > 0


def test_third_notebook_tells_what_the_service_did_today(lakehouse, fresh):
    _, feed = lakehouse
    answers = fresh["3-time-travel"][1]
    today = [entry for entry in feed if entry["timestamp"] >= f"{TODAY:%Y-%m-%d}"]
    entries = Counter(entry["action"].capitalize() for entry in today)
    studies = {
        action: {e["studyInstanceUid"] for e in today if e["action"].capitalize() == action} for action in entries
    }
    assert answers["came_in"] == [[action, entries[action], len(studies[action])] for action in sorted(entries)]

    now, before = fold(feed), fold([entry for entry in feed if entry not in today])
    kinds = {
        "inserted": now.keys() - before.keys(),
        "corrected": {key for key in now.keys() & before.keys() if now[key] is not before[key]},
        "deleted": before.keys() - now.keys(),
    }
    assert all(kinds.values())
    found = defaultdict(Counter)
    for modality, change, instances in answers["changed"]:
        found[change][modality] += instances
    for change in ("inserted", "corrected"):
        assert found[change] == Counter(first(now[key], MODALITY) for key in kinds[change])
    assert found["deleted"].total() == len(kinds["deleted"])  # the feed forgets what they were; the table does not
    assert answers["sums"] == [[len(before), len(kinds["inserted"]), len(kinds["deleted"]), len(now)]]

    lost, left = Counter(key[0] for key in kinds["deleted"]), Counter(key[0] for key in now)
    assert {row[0]: row[2:] for row in answers["gone"]} == {uid: [lost[uid], left[uid]] for uid in lost}
    corrected = {(first(now[key], PATIENT_ID), first(now[key], ACCESSION_NUMBER)) for key in kinds["corrected"]}
    assert {(row[2], row[4]) for row in answers["corrected"]} == corrected
    assert all(row[1] != row[2] and row[3] != row[4] for row in answers["corrected"])


@pytest.mark.deep  # minutes: three notebooks on a Spark that was started for them
def test_notebooks_run_unchanged_on_apache_spark_where_a_session_is_there_already(lakehouse, fresh, spark, tmp_path):
    """As in Fabric: `spark` is there and knows the tables, which lie with the files in a folder of another name."""
    import matplotlib as mpl
    import pandas as pd
    from matplotlib import pyplot as plt

    default = tmp_path / "default"
    default.symlink_to(lakehouse[0])
    for table in Path(default, "Tables").iterdir():
        spark.sql(f"CREATE TABLE {table.name} USING delta LOCATION '{table}'")
    for name in NAMES:
        variables = {"spark": spark, "json": json}
        notebook = read(name)
        setting_cell(notebook).source = f"LAKEHOUSE = {str(default)!r}"
        with mpl.rc_context():
            plt.switch_backend("template")  # draws nothing
            for cell in code_cells(notebook):
                exec(compile(cell.source, name, "exec"), variables)
        pd.reset_option("display")
        assert json.loads(eval(as_json(ANSWERS[name]), variables)) == fresh[name][1], name
