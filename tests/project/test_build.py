"""What a checkout must be able to build."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (".gitignore", "hatch_build.py", "proto", "pyproject.toml", "README.md", "scripts")
PACKAGES = ("tq_admin", "tq_client", "tq_cluster", "tq_common", "tq_process", "tq_worker")


def bare_checkout(folder: Path) -> Path:
    """Copy what git has, and nothing that was generated."""
    folder.mkdir()
    for name in (*SOURCES, *PACKAGES):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / name)
    return folder


@pytest.mark.slow
def test_a_wheel_of_a_bare_checkout_carries_the_generated_package(tmp_path: Path) -> None:
    checkout = bare_checkout(tmp_path / "checkout")
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation"]

    subprocess.run([*build, f"--wheel-dir={tmp_path}", str(checkout)], check=True)

    [wheel] = tmp_path.glob("tq-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    protos = [path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*.proto")]
    generated = {str(path.with_name(f"{path.stem}_pb2.py")) for path in protos}
    assert generated
    assert generated <= names
    assert {f"{package}/__init__.py" for package in ("tq", *PACKAGES)} <= names
    assert not [name for name in names if name.startswith(("tests/", "proto/"))]
    # Plain Python, for every platform: docs/adr/0027-no-compiled-modules.md.
    assert wheel.name.endswith("-py3-none-any.whl")


def image_sources() -> list[str]:
    """What the Dockerfile copies from the checkout, in its own words."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    return [name.rstrip("/") for names in copies for name in names if "--from" not in names[0]]


@pytest.mark.slow
def test_the_image_is_handed_all_that_the_wheel_is_built_from(tmp_path: Path) -> None:
    """The same wheel, built from what the Dockerfile copies and nothing else."""
    context = tmp_path / "context"
    context.mkdir()
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    for name in image_sources():
        assert f"!{name}" in let_in or any(f"!{path}" in let_in for path in Path(name).parents), (
            name
        )
        target = context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, target, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, target)
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation"]

    subprocess.run([*build, f"--wheel-dir={tmp_path}", str(context)], check=True)

    [wheel] = tmp_path.glob("tq-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/__init__.py" for package in ("tq", *PACKAGES)} <= names


@pytest.mark.slow
def test_generating_twice_rewrites_nothing(tmp_path: Path) -> None:
    checkout = bare_checkout(tmp_path / "checkout")
    generate = [sys.executable, str(checkout / "scripts" / "generate_protos.py")]
    subprocess.run(generate, check=True)
    first = {path: path.stat().st_mtime_ns for path in (checkout / "tq").rglob("*.py*")}

    subprocess.run([*generate, "--force"], check=True)

    assert {path: path.stat().st_mtime_ns for path in (checkout / "tq").rglob("*.py*")} == first


@pytest.mark.slow
def test_a_proto_that_is_gone_takes_its_module_along(tmp_path: Path) -> None:
    checkout = bare_checkout(tmp_path / "checkout")
    extra = checkout / "proto" / "tq" / "extra" / "v1" / "extra.proto"
    extra.parent.mkdir(parents=True)
    extra.write_text('syntax = "proto3";\npackage tq.extra.v1;\nmessage Extra {}\n')
    generate = [sys.executable, str(checkout / "scripts" / "generate_protos.py")]
    subprocess.run(generate, check=True)
    assert (checkout / "tq" / "extra" / "v1" / "extra_pb2.py").is_file()

    shutil.rmtree(checkout / "proto" / "tq" / "extra")
    subprocess.run(generate, check=True)

    assert not (checkout / "tq" / "extra").exists()
