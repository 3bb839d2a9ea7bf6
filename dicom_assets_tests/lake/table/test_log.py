from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from dicom_assets.lake.table.log import Log, checkpoint_name, commit_name


def at(hour: int) -> datetime:
    return datetime(2026, 3, 1, hour, tzinfo=UTC)


def log_of(commits: dict[int, datetime], checkpoints: Iterable[int] = ()) -> Log:
    names = {commit_name(version): time for version, time in commits.items()}
    names |= dict.fromkeys(map(checkpoint_name, checkpoints), at(0))
    return Log({name.rpartition("/")[2]: time for name, time in names.items()})


@pytest.mark.parametrize(("time", "version"), [(0, None), (1, 4), (2, 4), (3, 6), (9, 7)])
def test_version_of_a_time_is_the_newest_one_then_though_clocks_go_back(time, version):
    log = log_of({4: at(1), 5: at(3), 6: at(2), 7: at(4)})
    assert log.version_at(at(time)) == version


def test_version_is_readable_from_a_checkpoint_or_from_the_first_commit_on():
    log = log_of(dict.fromkeys((3, 4, 5, 7, 8), at(0)), {4, 6})
    assert [version for version in range(10) if log.is_readable(version)] == [4, 5, 6, 7, 8]
    assert log.first_readable() == 4
    assert log.first_readable(5) == 5
    assert log_of(dict.fromkeys((0, 1), at(0))).is_readable(1)
    assert log_of(dict.fromkeys((1, 2), at(0))).first_readable() == 2
