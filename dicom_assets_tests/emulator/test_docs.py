"""docs/emulator.md says what is true."""

import re
import subprocess
import sys
from pathlib import Path

from dicom_assets.emulator.store.unreadable import Fault
from dicom_assets_tests.processes import clean_environment, run_command

PAGE = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text(encoding="utf-8")


def test_example_runs():
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=clean_environment())


def test_faults_and_options_are_those_of_the_command():
    assert set(re.findall(r"^\| `([a-z][a-z0-9-]*)` \|", PAGE, re.MULTILINE)) == set(Fault)
    known = run_command("emulator", "--help", env=clean_environment(COLUMNS="200")).stdout
    assert [option for option in re.findall(r"`(--[a-z-]+)", PAGE) if option not in known] == []
