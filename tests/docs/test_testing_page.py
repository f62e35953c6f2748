"""The tests in docs/testing.md, run by pytest as a reader would."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.cluster.ports import free_base_port
from tests.docs.commands import ROOT, files
from tests.docs.reader import Reader

pytestmark = pytest.mark.slow


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A folder with the tests of the page, and the modules that they are about."""
    shutil.copy(ROOT / "examples" / "images.py", tmp_path)
    (tmp_path / "exports.py").write_text(files("docs/cancel.md")["exports.py"])
    for name, text in files("docs/testing.md").items():
        (tmp_path / name).write_text(text)
    return Reader(tmp_path)


def change(reader: Reader, name: str, before: str, after: str) -> None:
    """Change one place in a module."""
    module = reader.folder / name
    assert module.read_text().count(before) == 1, f"{name} has no {before!r}"
    module.write_text(module.read_text().replace(before, after))


@pytest.mark.cluster
def test_the_tests_of_the_page_pass(reader: Reader) -> None:
    change(reader, "conftest.py", "PORT = 7901", f"PORT = {free_base_port()}")
    tests = [text for text in files("docs/testing.md").values() if "def test_" in text]
    count = sum(len(re.findall(r"^def test_", text, re.MULTILINE)) for text in tests)

    ended = reader.type("python -m pytest -q -p no:cacheprovider")

    assert f"{count} passed" in ended.stdout, ended.stdout + ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("images.py", "raise PermanentError(", "raise ValueError("),
        ("images.py", "size * 3 // 4", "size"),
        ("images.py", "attempt {context.attempt}", "attempt 1"),
        ("exports.py", "        context.raise_if_cancelled()", "        pass"),
        ("exports.py", "await asyncio.sleep(seconds)", "pass"),
    ],
)
def test_the_tests_of_the_page_find_a_handler_that_is_wrong(
    reader: Reader, module: str, before: str, after: str
) -> None:
    change(reader, module, before, after)

    ended = reader.type("python -m pytest -q -p no:cacheprovider test_handlers.py")

    assert "1 failed" in ended.stdout, ended.stdout + ended.stderr


def test_the_pages_modules_have_the_types_that_they_say(reader: Reader) -> None:
    checked = reader.type(
        "python -m mypy --strict --cache-dir=cache exports.py test_handlers.py"
        " test_uploads.py test_with_brokers.py conftest.py"
    )

    assert checked.returncode == 0, checked.stdout
