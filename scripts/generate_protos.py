"""Generate the package `tq` from `proto/`: messages, gRPC stubs and their types, options of tasks.

Nothing is written when nothing changed, and each file is replaced whole, so processes that import
the package while this runs see an old file or a new one, never half of one.

Usage: python scripts/generate_protos.py [--force]
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO_DIR = ROOT / "proto"
PACKAGE_DIR = ROOT / "tq"
STAMP_NAME = ".inputs.sha256"
INIT_TEXT = '"""Generated from proto/ by scripts/generate_protos.py; do not edit."""\n'
OPTIONS_PLUGIN = Path(__file__).with_name("generate_options.py").resolve()
_LIMITS = (ROOT / "tq_common" / "limits.py", ROOT / "tq_common" / "names.py")
"""What the options of a task may name as their bounds."""


def generate(*, force: bool = False) -> bool:
    """Bring the package up to date; True if anything had to be generated."""
    inputs = sorted(PROTO_DIR.rglob("*.proto"))
    digest = _digest(inputs)
    stamp = PACKAGE_DIR / STAMP_NAME
    if not force and stamp.is_file() and stamp.read_text() == digest:
        return False
    with tempfile.TemporaryDirectory(prefix=".tq-generated-", dir=ROOT) as scratch:
        staging = Path(scratch) / "out"
        (staging / "tq").mkdir(parents=True)
        if inputs:
            _compile(inputs, staging, plugins_dir=Path(scratch))
        _complete_packages(staging / "tq")
        _install(staging / "tq", PACKAGE_DIR)
    _replace(stamp, digest.encode())
    return True


def _digest(inputs: list[Path]) -> str:
    """Everything the output depends on: protos, generators, limits, these scripts."""
    digest = hashlib.sha256()
    for source in (Path(__file__), OPTIONS_PLUGIN, *_LIMITS):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    for distribution in ("grpcio-tools", "mypy-protobuf"):
        digest.update(f"{distribution}=={metadata.version(distribution)}\n".encode())
    for path in inputs:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PROTO_DIR)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _compile(inputs: list[Path], staging: Path, *, plugins_dir: Path) -> None:
    import grpc_tools  # noqa: PLC0415 - generators exist only in dev and build environments
    from grpc_tools import protoc  # noqa: PLC0415 - as above

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    options = _plugin(plugins_dir, "tq_options", str(OPTIONS_PLUGIN))
    messages, stubs = (
        _plugin(plugins_dir, f"mypy_{function}", "-c", _MYPY.format(function))
        for function in ("main", "grpc")
    )
    arguments = [
        "protoc",
        f"--proto_path={PROTO_DIR}",
        f"--proto_path={well_known}",
        f"--plugin=protoc-gen-mypy={messages}",
        f"--plugin=protoc-gen-mypy_grpc={stubs}",
        f"--plugin=protoc-gen-tq_options={options}",
        f"--python_out={staging}",
        f"--grpc_python_out={staging}",
        f"--mypy_out=quiet:{staging}",
        f"--mypy_grpc_out=quiet:{staging}",
        f"--tq_options_out={staging}",
        *(str(path.relative_to(PROTO_DIR)) for path in inputs),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("scripts/generate_protos.py: protoc refused the files in proto/, see above")


_MYPY = "from mypy_protobuf.main import {0}; {0}()"


def _plugin(directory: Path, name: str, *arguments: str) -> Path:
    """Write a protoc plugin that runs under this very interpreter, wherever the PATH points."""
    path = directory / f"protoc-gen-{name}"
    path.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, *arguments])}\n")
    path.chmod(0o755)
    return path


def _complete_packages(package: Path) -> None:
    """Make every folder a typed package; drop gRPC modules of files that define no service."""
    for stubs in package.rglob("*_pb2_grpc.py"):
        if "Stub" not in stubs.read_text():
            stubs.unlink()
            stubs.with_suffix(".pyi").unlink(missing_ok=True)
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (folder / "__init__.py").write_text(INIT_TEXT)
    (package / "py.typed").touch()


def _install(staged: Path, target: Path) -> None:
    wanted = {path.relative_to(staged) for path in staged.rglob("*") if path.is_file()}
    for name in sorted(wanted):
        content = (staged / name).read_bytes()
        path = target / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, content)
    for path in target.rglob("*"):
        if path.suffix in {".py", ".pyi"} and path.relative_to(target) not in wanted:
            path.unlink(missing_ok=True)
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.suffix != ".pyc" for path in folder.rglob("*") if path.is_file()):
            shutil.rmtree(folder, ignore_errors=True)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


if __name__ == "__main__":
    if generate(force="--force" in sys.argv[1:]):
        print("generated the package tq from proto/")
