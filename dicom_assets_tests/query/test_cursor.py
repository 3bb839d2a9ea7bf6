import pytest

from dicom_assets.core.errors import CursorError
from dicom_assets.query.cursor import ChangesCursor, read_cursor, write_cursor


def test_cursor_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "study.cursor"
    assert read_cursor(path, "study") is None
    for cursor in (ChangesCursor("study", "id", -1, 4), ChangesCursor("study", "id", 4)):
        write_cursor(path, cursor)
        assert read_cursor(path, "study") == cursor
    assert list(tmp_path.iterdir()) == [path]
    assert ChangesCursor("study", "id", -1, 4).is_at_beginning


@pytest.mark.parametrize("content", ["", "{}", '{"table": "study", "table_id": "x", "version": "4"}', "[]"])
def test_file_that_holds_no_cursor_is_refused(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(CursorError, match="holds no cursor"):
        read_cursor(path, "study")


def test_cursor_of_another_table_is_refused(tmp_path):
    write_cursor(tmp_path / "c", ChangesCursor("instance", "id", 1))
    with pytest.raises(CursorError, match="how far instance was read, and not study"):
        read_cursor(tmp_path / "c", "study")


def test_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CursorError, match=r"cannot be written \(No such file or directory\)"):
        write_cursor(tmp_path / "nowhere" / "c", ChangesCursor("study", "id", 1))
