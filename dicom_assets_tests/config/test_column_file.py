"""Files of users' columns, and what is told of one that cannot be used: every line at fault."""

import re
from pathlib import Path

import pytest

from dicom_assets.config.column_file import load_columns
from dicom_assets.config.dictionary import load_dictionary
from dicom_assets.core.columns.extra_elements import Found, find_element
from dicom_assets.core.columns.schema import type_names
from dicom_assets.core.errors import SettingsError

DICTIONARY = load_dictionary()


@pytest.fixture
def refusal(tmp_path):
    """Gives what is said of a file: the lines shown, each with what is wrong with it."""

    def refuse(name: str, text: str | bytes) -> list[str]:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(SettingsError, match=re.escape(str(path))) as caught:
            load_columns(path)
        return [line.strip() for line in str(caught.value).split("\n")[1:]]

    return refuse


def names(path: Path) -> list[str]:
    return [column.name for column, _ in load_columns(path)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", '[columns]\nkvp = "KVP"\n'),
        ("c.TOML", '\ufeff[[columns]]\r\nname = "kvp"\r\ntag = "KVP"\r\n'),
        ("c.yaml", "columns:\n  kvp: KVP\n"),
        ("c.yaml", "columns:\n- {name: kvp, tag: 00180060}\n"),
        ("c.yml", "columns:\n  kvp:\n    tag: (0018,0060)\n"),
        ("c.yaml", "columns:\n  kvp: 00180060 # no octal number"),
    ],
)
def test_toml_and_yaml_say_the_same(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    ((column, grain),) = load_columns(tmp_path / name)
    assert (column.name, column.tag, column.type_name, grain) == ("kvp", "00180060", "double", "instance")


def test_every_problem_is_told_with_its_line(refusal):
    found = refusal(
        "c.toml",
        '# mine\n[columns]\nsliceThickness = "SliceThicknes"\nkvp = "KVP"\n\n'
        'birth = { tag = "PatientName", type = "date" }\n'
        'Kvp = "KVP"\n[columns.station]\n# where\ntag = "StationName"\ngrain = "patient"\n',
    )
    assert [line for line in found if line.startswith("line")] == [
        'line 3: sliceThickness = "SliceThicknes"',
        'line 6: birth = { tag = "PatientName", type = "date" }',
        'line 7: Kvp = "KVP"',
        'line 11: grain = "patient"',
    ]
    assert found[1] == "tag: SliceThicknes is no keyword of the DICOM dictionary. Did you mean SliceThickness?"
    assert found[3].startswith("type: 'date' cannot hold the values of PatientName (0010,0010)")
    assert found[5].startswith("name: 'Kvp' is not camelCase")


def test_a_name_given_twice_is_told_with_both_lines(refusal):
    (line, text) = refusal("c.toml", '[columns]\nkvp = "KVP"\n\nkVp = "KVP"\n')
    assert line == 'line 4: kVp = "KVP"'
    assert text.endswith("Choose another. It stands in line 2 already.")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[[columns]]\nname = "a"\ntag = "KVP"\n[[columns]]\nname = "b"\ntag = "KVPP"\n', 6),
        ('[[columns]]\nname = "a"\ntag = "KVP"\n\n[[columns]]\nname = "b"\n', 5),
        ('columns = [\n  {name = "a", tag = "KVP"},\n  # b\n  {name = "b", tag = "KVPP"},\n]\n', 4),
        ('columns = [\n  {name = "a", tag = "KVP"},\n  {name = "b", tag = "KVPP"}\n]\n', 3),
        ('[columns]\na = "KVP"\nb = """\nKVPP"""\nc = "KVP"\n', 3),
        ('columns.a = "KVP"\ncolumns.b = "KVPP"', 2),
    ],
)
def test_the_line_is_found_in_every_form_of_toml(refusal, text, line):
    assert refusal("c.toml", text)[0].startswith(f"line {line}: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("columns:\n  a: KVP\n  b: KVPP\n", 3),
        ("columns:\n  a: KVP\n  b:\n    type: double\n    tag: KVPP\n", 5),
        ("columns:\n- name: a\n  tag: KVP\n- name: b\n  tag: KVPP\n", 5),
        ("columns:\n- name: a\n  tag: KVP\n- name: b\n", 4),
        ("columns: [{name: a,\n  tag: KVPP}]\n", 2),
        ("columns:\n  a: &x {tag: KVP, type: date}\n  b: *x\n", 2),
        ("columns: 5\n", 1),
        ("colums:\n  a: KVP\n", 1),
    ],
)
def test_the_line_is_found_in_every_form_of_yaml(refusal, text, line):
    assert refusal("c.yaml", text)[0].startswith(f"line {line}: ")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("c.toml", "[columns]\nkvp = KVP\n", ["line 2: kvp = KVP", "This is no valid TOML: Invalid value. (column 7)"]),
        (
            "c.toml",
            '[columns]\nkvp = ["a",\n\n',
            ['line 2: kvp = ["a",', "This is no valid TOML: Invalid value, at the end of the file."],
        ),
        (
            "c.toml",
            '[columns]\nkvp = "KVP"\nkvp = "KVP"\n',
            ['line 3: kvp = "KVP"', "This is no valid TOML: the name was given before, take one out. (column 12)"],
        ),
        (
            "c.yaml",
            "columns:\n  kvp: KVP\n  a: b: c\n",
            ["line 3: a: b: c", "This is no valid YAML: mapping values are not allowed in this context. (column 7)"],
        ),
        (
            "c.yaml",
            "columns:\n  kvp: KVP\n  kvp: StationName\n",
            ["line 3: kvp: StationName", "kvp stands in line 2 already. Take one out."],
        ),
        ("c.yaml", "columns: &a\n  kvp: *a\n", ["line 1: columns: &a", "This is no valid YAML: found unconstructable"]),
        ("c.yaml", "columns:\n  a: \x07\n", ["line 2: a: \x07", "This is no valid YAML: control characters"]),
        ("c.yaml", "", ["There is nothing in it."]),
        ("c.toml", "", ["There is nothing in it."]),
        ("c.yaml", "- kvp", ["There is nothing in it."]),
        ("c.toml", "[columns]\n" + "x" * 200 + ' = "KVPP"', ["line 2: " + "x" * 100 + "…", "tag: KVPP is no keyword"]),
    ],
)
def test_files_that_cannot_be_read_are_explained(refusal, name, text, told):
    found = refusal(name, text)
    assert len(found) == len(told)
    for line, start in zip(found, told, strict=True):
        assert line.startswith(start)


def test_a_file_in_another_encoding_is_explained(tmp_path):
    (tmp_path / "c.toml").write_bytes("[columns]\n# Größe\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"c\.toml, line 2: this is no text in UTF-8"):
        load_columns(tmp_path / "c.toml")


def test_a_file_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yaml cannot be read \(No such file or directory\)"):
        load_columns(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="neither TOML nor YAML by its name"):
        load_columns(tmp_path / "c.json")


# docs/columns.md

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "columns.md").read_text(encoding="utf-8")


def test_files_that_are_shown_can_be_used(tmp_path):
    shown = re.findall(r"```(toml|yaml)\n(.*?)```", DOCUMENT, re.DOTALL)
    assert shown
    for suffix, text in shown:
        (tmp_path / f"c.{suffix}").write_text(text)
        assert "sliceThickness" in names(tmp_path / f"c.{suffix}")
    assert load_columns(tmp_path / "c.toml") == load_columns(tmp_path / "c.yaml")


def test_the_message_that_is_shown_is_the_one_that_comes(refusal):
    (shown,) = re.findall(r"```text\n- DICOM_EXTRA_COLUMNS: [^\n]*\n(.*?)```", DOCUMENT, re.DOTALL)
    lines = [""] * 6
    lines[0] = "[columns]"
    for number, content in re.findall(r"line (\d): (.*)", shown):
        lines[int(number) - 1] = content
    assert refusal("columns.toml", "\n".join(lines)) == [line.strip() for line in shown.strip().split("\n")]


def test_the_elements_that_are_shown_can_be_named(tmp_path):
    _, table = DOCUMENT.split("| written | means |\n| --- | --- |\n")
    written = [
        way for row in table.split("\n\n")[0].split("\n") for way in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    ]
    assert len(written) > 6
    entries = [f'c{place} = {{ tag = "{tag}", type = "string" }}' for place, tag in enumerate(written)]
    (tmp_path / "c.toml").write_text("\n".join(["[columns]", *entries]))
    assert len(load_columns(tmp_path / "c.toml")) == len(written)


def test_the_types_that_are_shown_are_those_that_can_be_set():
    of_vr = {element.vr: element.tag for element in DICTIONARY if element.tag[:4] > "0002" and not element.repeats}
    _, table = DOCUMENT.split(
        "| representation (VR) | type by itself | other types that can be set |\n| --- | --- | --- |\n"
    )
    shown = {}
    for row in table.split("\n\n")[0].split("\n"):
        representations, first, others = row.strip("| ").split(" | ")
        for vr in representations.split():
            shown[vr] = [first.strip("`"), *re.findall(r"`([^`]+)`", others)]
    for vr, kinds in shown.items():
        found = find_element(of_vr[vr], DICTIONARY)
        assert find_element(f"{of_vr[vr]}[0]", DICTIONARY).default_type() == kinds[0]
        assert {kind for kind in type_names if holds(found, kind)} == set(kinds), vr


def holds(found: Found, kind: str) -> bool:
    try:
        found.check_type(kind)
    except ValueError:
        return False
    return True
