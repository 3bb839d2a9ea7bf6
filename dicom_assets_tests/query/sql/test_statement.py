import pytest

from dicom_assets.core.errors import LakeQueryError
from dicom_assets.query.sql.statement import Token, parse_statement, suggest


def refusal(text: str) -> str:
    with pytest.raises(LakeQueryError) as caught:
        parse_statement(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "keyword", "is_query"),
    [
        ("select 1", "SELECT", True),
        (" -- what I want\n/* really */ ((SELECT 1));;\n", "SELECT", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "WITH", True),
        ("VALUES (1)", "VALUES", True),
        ("DESCRIBE study", "DESCRIBE", False),
        ("Show Tables", "SHOW", False),
        ("EXPLAIN ANALYZE VERBOSE SELECT 1", "EXPLAIN", False),
        ("EXPLAIN (SELECT 1)", "EXPLAIN", False),
        ("EXPLAIN", "EXPLAIN", False),
        ("SELECT 'INSERT INTO; x' AS \"INTO\" -- INTO ;", "SELECT", True),
    ],
)
def test_statement_that_reads_is_taken(text, keyword, is_query):
    statement = parse_statement(text)
    assert (statement.keyword, statement.is_query) == (keyword, is_query)


def test_body_ends_with_the_last_token():
    assert parse_statement("SELECT 1 ; -- one").body == "SELECT 1"


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO study SELECT * FROM study",
        "COPY study TO 'x.csv'",
        "/* SELECT */ DROP TABLE study",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "EXPLAIN EXPLAIN SELECT 1",
        "EXPLAIN SHOW TABLES",
        "SET a = 1",
        "(DELETE FROM study)",
        '"SELECT" 1',
        "\ufeffSELECT 1",
        "; SELECT 1",
    ],
)
def test_statement_that_does_not_read_is_refused(text):
    with pytest.raises(LakeQueryError, match=r"Only statements that read|one at a time"):
        parse_statement(text)


def test_select_into_is_refused_at_its_place():
    assert refusal("SELECT 1\nINTO x") == (
        "INTO writes, and only statements that read are answered.\n\n  line 2: INTO x\n          ^^^^"
    )


def test_misspelt_keyword_is_guessed():
    assert refusal("SELEC 1") == "Did you mean SELECT?\n\n  SELEC 1\n  ^^^^^"


def test_second_statement_is_refused():
    assert refusal("SELECT 1; DROP TABLE study").startswith("There is more than one statement")


@pytest.mark.parametrize("text", ["", " \n", "-- nothing", ";", "(("])
def test_no_statement_is_told(text):
    assert "There is no SQL statement" in refusal(text)


def test_comment_within_a_comment_is_refused_since_engines_end_it_at_different_places():
    assert "comment begins within a comment" in refusal("/* /* */ SELECT 1 -- */ COPY a TO 'b'")


def test_names_are_words_and_what_is_in_double_quotes():
    assert parse_statement("SELECT \"a b\", `c`, d.e, 'f' FROM g -- h").names == {
        "SELECT", "FROM", "a b", "c", "d", "e", "g",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "start"), [("studyDate", 18), ("STUDYDATE", 7), ("studydate", 7), ("nope", None), ("text", None)]
)
def test_token_is_found_by_name_with_its_capitals_first(name, start):
    token = parse_statement("SELECT STUDYDATE, studyDate, 'text'").find(name)
    assert (token.start if token else None) == start


def test_token_is_found_by_line_and_column():
    statement = parse_statement("SELECT a,\n  b FROM c")
    assert statement.find_at(1, 8) == Token("word", "a", 7)
    assert statement.find_at(2, 3) == Token("word", "b", 12)
    assert statement.find_at(2, 99) is None


def excerpt(text: str, name: str, **how) -> str:
    statement = parse_statement(text)
    return str(statement.refuse("Why.", statement.find(name), **how)).partition("\n\n")[2]


def test_place_is_marked_below_the_token():
    assert excerpt("SELECT a,\n\tbcd\nFROM e", "bcd") == "  line 2:  bcd\n           ^^^"


def test_place_in_a_long_line_is_shown_with_what_is_around_it():
    shown, mark = excerpt(f"SELECT {', '.join(['columnName'] * 30)}, wanted FROM study", "wanted").split("\n")
    assert len(shown) <= 110
    assert shown.startswith("  … ")
    assert shown[mark.index("^") : mark.index("^") + len("wanted")] == "wanted"
    assert mark.count("^") == len("wanted")


def test_literals_of_the_shown_line_are_hidden_in_place():
    text = 'SELECT wrong FROM "study" WHERE patientName = \'Doe\' OR patientId = 4711 OR "Roe" LIMIT 10 --Poe'
    shown, mark = excerpt(text, "wrong", known={"study"}).split("\n")
    assert (
        shown == '  SELECT wrong FROM "study" WHERE patientName = \'………\' OR patientId = ………… OR "………" LIMIT 10 ……………'
    )
    assert mark == "         ^^^^^"


def test_open_quote_is_hidden_to_its_end():
    assert excerpt("SELECT wrong, 'Doe\nRoe", "wrong") == "  line 1: SELECT wrong, '………\n                 ^^^^^"


def test_refusal_without_a_place_is_the_reason_alone():
    assert str(parse_statement("SELECT 1").refuse("Why.")) == "Why."


def test_values_are_hidden_in_an_engines_reason():
    statement = parse_statement("SELECT 'Doe^Jo', '' FROM study")
    reason = 'no \'Roe\' in "patientName", "Poe", Doe^Jo or 4711471 of 12'
    assert statement.hide_values(reason, known={"patientName"}) == "no '…' in patientName, \"…\", … or … of 12"


@pytest.mark.parametrize(
    ("name", "meant"), [("patientNam", "patientName"), ("STUDYDATE", "studyDate"), ("filePath", None)]
)
def test_near_names_are_suggested(name, meant):
    assert suggest(name, ["patientName", "studyDate", "patientId"]) == meant
