"""Write `docs/api.md`, the reference of the public API, from the comments in `proto/tq/v1`.

What it says stands in the protos; a test keeps the committed file equal to what this makes.

Usage: python scripts/api_reference.py
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
    SourceCodeInfo,
)

if TYPE_CHECKING:
    from tq.v1 import options_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTO_DIR = ROOT / "proto"
PACKAGE = "tq.v1"
TARGET = ROOT / "docs" / "api.md"
# As a reader needs them; a file that is not named here comes after these.
ORDER = (
    "task_service",
    "conversation_service",
    "worker_service",
    "queue_service",
    "cluster_service",
    "task",
    "errors",
    "options",
)
INTRODUCTION = """\
# API reference

Generated from the comments in [`proto/tq/v1`](../proto/tq/v1) by `make api-docs`; do not edit.
Clients in your language: [languages](languages.md). What each error means and what to do:
[operations](operations.md#what-each-error-means).

Everything is in the package `tq.v1`; `Duration` and `Timestamp` are those of `google.protobuf`.
A field that a call leaves out has proto3's default: zero, empty, or absent.
"""

_Place = tuple[int, ...]
_SCALARS = {
    number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()
}
_NAMED = (FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM)


def compile_protos(proto_dir: Path, names: Sequence[str]) -> list[FileDescriptorProto]:
    """What protoc reads in these files of the folder, with the comments."""
    import grpc_tools  # noqa: PLC0415 - exists only where the dev dependencies are
    from grpc_tools import protoc  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "descriptors"
        arguments = [
            "protoc",
            f"--proto_path={proto_dir}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={output}",
            *names,
        ]
        if protoc.main(arguments) != 0:
            sys.exit("scripts/api_reference.py: protoc refused the files, see above")
        return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def reference(proto_dir: Path = PROTO_DIR) -> str:
    """The whole document."""
    folder = proto_dir / PACKAGE.replace(".", "/")
    names = [str(path.relative_to(proto_dir)) for path in sorted(folder.glob("*.proto"))]
    files = sorted(compile_protos(proto_dir, names), key=_place)
    return "\n".join([INTRODUCTION, _contents(files), *(_File(file).text() for file in files)])


def _place(file: FileDescriptorProto) -> tuple[int, str]:
    name = Path(file.name).stem
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _contents(files: Sequence[FileDescriptorProto]) -> str:
    lines = ["| | |", "| --- | --- |"]
    for file in files:
        for service in file.service:
            methods = ", ".join(
                _link(method.name, f"{service.name}.{method.name}") for method in service.method
            )
            lines.append(f"| {_link(service.name)} | {methods} |")
        if not file.service:
            names = [enum.name for enum in file.enum_type]
            names += [message.name for message in file.message_type]
            types = ", ".join(map(_link, names))
            lines.append(f"| {_link(Path(file.name).name)} | {types} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Comment:
    text: str = ""
    # What stands by itself above the next thing, such as a line over a group of enum values.
    detached: str = ""

    def cell(self) -> str:
        return _escaped(" ".join(self.text.split())).replace("|", "\\|")

    def paragraphs(self) -> Iterator[str]:
        if self.text:
            yield from (_escaped(self.text), "")


class _File:
    """One .proto file as a chapter."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        locations = file.source_code_info.location
        self._comments = {tuple(location.path): _comment(location) for location in locations}
        self._lines: dict[_Place, int] = {
            tuple(location.path): location.span[0] for location in locations
        }

    def text(self) -> str:
        file = self._file
        title = file.service[0].name if file.service else Path(file.name).name
        # The file's own comment stands above `syntax`.
        head = self._at((FileDescriptorProto.SYNTAX_FIELD_NUMBER,))
        lines = [f"## {title}", ""]
        for text in (head.detached, head.text):
            lines += _Comment(text).paragraphs()
        for number, service in enumerate(file.service):
            lines += self._service(service, (FileDescriptorProto.SERVICE_FIELD_NUMBER, number))
        types: dict[int, Iterator[str]] = {}
        for number, message in enumerate(file.message_type):
            place = (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, number)
            types[self._lines[place]] = self._message(message, message.name, place)
        for number, enum in enumerate(file.enum_type):
            place = (FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER, number)
            types[self._lines[place]] = self._enum(enum, enum.name, place)
        for number, extension in enumerate(file.extension):
            place = (FileDescriptorProto.EXTENSION_FIELD_NUMBER, number)
            types[self._lines[place]] = self._extension(extension, place)
        for line in sorted(types):
            lines += types[line]
        return "\n".join(lines)

    def _at(self, path: _Place) -> _Comment:
        return self._comments.get(path, _Comment())

    def _service(self, service: ServiceDescriptorProto, path: _Place) -> Iterator[str]:
        if service is not self._file.service[0]:
            yield from (f"## {service.name}", "")
        yield from self._at(path).paragraphs()
        for number, method in enumerate(service.method):
            comment = self._at((*path, ServiceDescriptorProto.METHOD_FIELD_NUMBER, number))
            takes, gives = _type_link(method.input_type), _type_link(method.output_type)
            yield from (f"### {service.name}.{method.name}", "")
            yield from (f"Takes {takes}, returns {gives}.", "")
            yield from comment.paragraphs()
            yield from _policy(method)

    def _extension(self, option: FieldDescriptorProto, path: _Place) -> Iterator[str]:
        whose = option.extendee.rpartition(".")[2].removesuffix("Options").lower()
        yield from (f"### Option {option.name}", "")
        yield from (f"An option of a {whose}: {_one(option)}, number {option.number}.", "")
        yield from self._at(path).paragraphs()

    def _message(self, message: DescriptorProto, name: str, path: _Place) -> Iterator[str]:
        yield from (f"### {name}", "")
        yield from self._at(path).paragraphs()
        if message.field:
            yield from ("| field | type | |", "| --- | --- | --- |")
            for number, field in enumerate(message.field):
                comment = self._at((*path, DescriptorProto.FIELD_FIELD_NUMBER, number)).cell()
                if field.HasField("oneof_index") and not field.proto3_optional:
                    group = message.oneof_decl[field.oneof_index].name
                    comment = f"One of `{group}`. {comment}".rstrip()
                yield f"| `{field.name}` | {_field_type(field, message)} | {comment} |"
        else:
            yield "No fields."
        yield ""
        for number, enum in enumerate(message.enum_type):
            place = (*path, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, number)
            yield from self._enum(enum, f"{name}.{enum.name}", place)
        for number, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                place = (*path, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, number)
                yield from self._message(nested, f"{name}.{nested.name}", place)

    def _enum(self, enum: EnumDescriptorProto, name: str, path: _Place) -> Iterator[str]:
        yield from (f"### {name}", "")
        yield from self._at(path).paragraphs()
        for number, value in enumerate(enum.value):
            comment = self._at((*path, EnumDescriptorProto.VALUE_FIELD_NUMBER, number))
            if comment.detached:
                yield ""
                yield from _Comment(comment.detached).paragraphs()
            if comment.detached or number == 0:
                yield from ("| value | number | |", "| --- | --- | --- |")
            yield f"| `{value.name}` | {value.number} | {comment.cell()} |"
        yield ""


def _policy(method: MethodDescriptorProto) -> Iterator[str]:
    """What the method's options say; nothing for one without."""
    from tq.v1 import options_pb2  # noqa: PLC0415 - generated by the time it is called

    # Parse again, now that the extension is known.
    options = MethodOptions.FromString(method.options.SerializeToString())
    if not options.HasExtension(options_pb2.policy):
        return
    policy = options.Extensions[options_pb2.policy]
    limits = [f"a request of at most {policy.request_bytes_max:,} bytes"]
    limits += [f"`{limit.field}` of at most {limit.items_max:,}" for limit in policy.limits]
    repeat = {
        policy.REPEAT_READ: "may be repeated: it changes nothing",
        policy.REPEAT_IDEMPOTENT: "may be repeated: twice does what once does",
        policy.REPEAT_BY_REQUEST_ID: "may be repeated under its `request_id`, and not without one",
        policy.REPEAT_NEVER: "is not repeated once it may have been applied",
    }[policy.repeat]
    poll = " A long poll." if policy.long_poll else ""
    yield from (f"Limits: {', '.join(limits)}. The call {repeat}.{poll}", "")
    rights = [_right(policy.verb, policy.scope)]
    for each in policy.also:
        condition = f" if `{each.if_set}` is set" if each.if_set else ""
        condition += f" unless `{each.unless_set}` is set" if each.unless_set else ""
        rights.append(_right(each.verb, each.scope) + condition)
    yield from (f"The caller's right: {'; '.join(rights)}.", "")


def _right(verb: options_pb2.Verb.ValueType, scope: options_pb2.Scope) -> str:
    """Say in words what a caller must be allowed to do, and where."""
    from tq.v1 import options_pb2  # noqa: PLC0415 - as above

    word = options_pb2.Verb.Name(verb).removeprefix("VERB_").lower().replace("_", "-")
    places = [f"on the queues in `{scope.queue}`"] if scope.queue else []
    places += [f"on the queues of the tasks in `{scope.task}`"] if scope.task else []
    places += ["on all queues"] if scope.all_queues else []
    return " ".join([f"`{word}`", " and ".join(places)]).strip()


def _comment(location: SourceCodeInfo.Location) -> _Comment:
    text = "\n\n".join(filter(None, (location.leading_comments, location.trailing_comments)))
    detached = "\n\n".join(map(_dedented, location.leading_detached_comments))
    return _Comment(_dedented(text), detached)


def _dedented(text: str) -> str:
    return "\n".join(line.removeprefix(" ").rstrip() for line in text.splitlines()).strip()


def _escaped(text: str) -> str:
    """Keep Markdown from taking <name> for a tag; what stands between backticks stays as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "\\<") for part in parts)


def _field_type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            key, value = nested.field
            return f"map of {_one(key)} to {_one(value)}"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {_one(field)}"
    return f"optional {_one(field)}" if field.proto3_optional else _one(field)


def _one(field: FieldDescriptorProto) -> str:
    return _type_link(field.type_name) if field.type in _NAMED else _SCALARS[field.type]


def _type_link(type_name: str) -> str:
    ours = f".{PACKAGE}."
    if type_name.startswith(ours):
        return _link(type_name.removeprefix(ours))
    return type_name.removeprefix(".google.protobuf.").removeprefix(".")


def _link(name: str, target: str = "") -> str:
    return f"[{name}](#{anchor(target or name)})"


def anchor(heading: str) -> str:
    """The fragment that Markdown renderers give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def main() -> None:
    """Write the document."""
    TARGET.write_text(reference())
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
