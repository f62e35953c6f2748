"""An image with handlers and packages of one's own, as docs/compose.md describes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.docs.commands import ROOT, files
from tests.docs.reader import Reader
from tests.docs.test_installing import lend_packages

pytestmark = pytest.mark.slow

FILES = files("docs/compose.md")
TASKS = """\
import shopkit

from tq_worker import task


@task("pack", queue="shop")
def pack(order: int) -> str:
    return shopkit.label(order)
"""
KIT = "def label(order: int) -> str:\n    return f'order {order}'\n"


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile in the page, and their arguments."""
    lines = re.sub(r"\\\n", " ", FILES[name]).splitlines()
    split = [line.partition(" ") for line in lines if not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in split]


def wheel(folder: Path, name: str, version: str, code: str) -> None:
    """Make a wheel with one module."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as made:
        made.writestr(f"{name}.py", code)
        made.writestr(f"{name}-{version}.dist-info/METADATA", about)
        made.writestr(f"{name}-{version}.dist-info/WHEEL", kind)
        made.writestr(f"{name}-{version}.dist-info/RECORD", "")


class Image:
    """A folder in the place of the image's root: its environment of tq, and what is copied."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "image"
        self.environment = self.root / "opt" / "tq"
        self._reader = Reader(folder)
        wheels = folder / "wheels"
        for place in (self.root / "tmp", self.root / "app" / "shop", wheels):
            place.mkdir(parents=True)
        wheel(wheels, "shopkit", "1.0", KIT)
        wheel(wheels, "protobuf", "1.0", "")
        (self.root / "app" / "shop" / "tasks.py").write_text(TASKS)
        self._reader.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        # As in the Dockerfile: an environment without pip, with tq and what it needs.
        venv = [sys.executable, "-m", "venv", "--without-pip", str(self.environment)]
        subprocess.run(venv, check=True)
        lend_packages(self.environment)

    def build(self, requirements: str) -> subprocess.CompletedProcess[str]:
        """Run the page's RUN instruction with these requirements."""
        (self.root / "tmp" / "requirements.txt").write_text(requirements)
        [command] = [rest for word, rest in instructions("shop.dockerfile") if word == "RUN"]
        places = re.compile(r"(?<=[ >])/(?:opt/tq|tmp)/")
        return self._reader.type(places.sub(lambda place: f"{self.root}{place[0]}", command))

    def check(self) -> subprocess.CompletedProcess[str]:
        """Run the page's CMD, with `check` in the place of `run`."""
        [command] = [rest for word, rest in instructions("shop.dockerfile") if word == "CMD"]
        program, run, *options = json.loads(command)
        assert (program, run) == ("tq-worker", "run")
        self._reader.environment["PYTHONPATH"] = f"{self.root}/app:{ROOT}"
        python = self.environment / "bin" / "python"
        return self._reader.type(" ".join([str(python), "-m", "tq_worker", "check", *options]))


def test_the_image_of_the_page_takes_packages_of_ones_own(tmp_path: Path) -> None:
    image = Image(tmp_path)

    before = image.check()
    built = image.build("shopkit==1.0\n")
    checked = image.check()

    assert "No module named 'shopkit'" in before.stdout + before.stderr
    assert built.returncode == 0, built.stdout + built.stderr
    assert checked.stdout.splitlines()[-1].split() == ["pack", "thread", "shop", "-"], (
        checked.stderr
    )


def test_a_package_that_needs_another_version_of_tqs_own_fails_the_build(tmp_path: Path) -> None:
    built = Image(tmp_path).build("protobuf==1.0\n")

    assert built.returncode != 0
    assert "protobuf==1.0" in built.stdout + built.stderr
    assert "constraint" in built.stdout + built.stderr


def test_root_only_installs() -> None:
    users = [rest for word, rest in instructions("shop.dockerfile") if word == "USER"]
    last = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "USER " in line]

    assert users == ["root", last[-1].removeprefix("USER ")]


def test_the_override_of_the_page_is_one_of_the_clusters_file() -> None:
    override = yaml.safe_load(FILES["shop.yml"])["services"]
    cluster = yaml.safe_load((ROOT / "docker-compose.cluster.yml").read_text())["services"]
    [command] = [rest for word, rest in instructions("shop.dockerfile") if word == "CMD"]
    log_format = cluster["worker1"]["command"][-2:]

    workers = {
        name for name, service in cluster.items() if "tq-worker" in str(service.get("command"))
    }
    assert override.keys() == workers
    for service in override.values():
        assert service["command"] == json.loads(command) + log_format
        assert service["build"]["dockerfile"] in FILES
        assert service["image"] != cluster["worker1"]["image"]
    assert "build" in cluster["n1"], "the page builds tq:local by it"
