"""docs/api.md says what the protos say, all of it, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

from scripts import api_reference
from tq.v1 import (
    cluster_service_pb2,
    conversation_service_pb2,
    errors_pb2,
    options_pb2,
    queue_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "api.md").read_text()
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (
        cluster_service_pb2,
        conversation_service_pb2,
        errors_pb2,
        options_pb2,
        queue_service_pb2,
        task_pb2,
        task_service_pb2,
        worker_service_pb2,
    )
]
SMALL = """
// About the file.

syntax = "proto3";

package tq.v1;

import "google/protobuf/duration.proto";

service Shelf {
  // Put takes <name> | value.
  rpc Put(Book) returns (Book);
}

// A book.
//
// In two paragraphs.
message Book {
  enum Kind {
    KIND_UNSPECIFIED = 0;

    // These are thin.

    KIND_LEAFLET = 1;  // After it.
  }
  message Page {
    bytes ink = 1;
  }
  oneof key {
    string title = 1;
    // By number.
    uint64 number = 2;
  }
  map<string, Page> pages = 3;
  repeated google.protobuf.Duration spans = 4;
  optional bool open = 5;
  Kind kind = 6;
}

message Nothing {}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of a file that has one of everything."""
    folder = tmp_path_factory.mktemp("proto")
    (folder / "tq" / "v1").mkdir(parents=True)
    (folder / "tq" / "v1" / "shelf.proto").write_text(SMALL)
    return api_reference.reference(folder)


def test_the_committed_reference_is_what_the_protos_make_of_it() -> None:
    assert api_reference.reference() == DOCUMENT, "make api-docs, and commit what it writes"


def test_every_service_method_message_field_and_value_of_the_api_has_its_place() -> None:
    known = {path.name for path in (ROOT / "proto" / "tq" / "v1").glob("*.proto")}
    assert known == {Path(file.name).name for file in FILES}
    for file in FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                assert f"\n### {service.name}.{method.name}\n" in DOCUMENT
        for message in file.message_types_by_name.values():
            expect_message(message, message.name)
        for enum in file.enum_types_by_name.values():
            expect_enum(enum, enum.name)


def expect_message(message: Descriptor, name: str) -> None:
    chapter = section(DOCUMENT, name)
    assert re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE) == [
        field.name for field in message.fields
    ]
    for enum in message.enum_types:
        expect_enum(enum, f"{name}.{enum.name}")


def expect_enum(enum: EnumDescriptor, name: str) -> None:
    assert re.findall(r"^\| `(\w+)` \| (\d+) \|", section(DOCUMENT, name), re.MULTILINE) == [
        (value.name, str(value.number)) for value in enum.values
    ]


def test_no_comment_of_the_api_is_left_out() -> None:
    words = " ".join(DOCUMENT.replace("\\", "").split())
    for path in sorted((ROOT / "proto" / "tq" / "v1").glob("*.proto")):
        for line in path.read_text().splitlines():
            _, is_comment, comment = line.partition("//")
            said = " ".join(comment.split())
            assert not is_comment or said in words, f"{path.name}: {said!r} is missing"


def test_every_link_in_the_reference_leads_to_a_heading_of_its_own() -> None:
    headings = re.findall(r"^#+ (.+)$", DOCUMENT, re.MULTILINE)
    anchors = [api_reference.anchor(heading) for heading in headings]

    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCUMENT)) <= set(anchors)


def test_a_field_says_its_type_and_what_it_belongs_to(small: str) -> None:
    book = section(small, "Book")

    assert "A book.\n\nIn two paragraphs.\n" in book
    assert "| `title` | string | One of `key`. |" in book
    assert "| `number` | uint64 | One of `key`. By number. |" in book
    assert "| `pages` | map of string to [Book.Page](#bookpage) |  |" in book
    assert "| `spans` | repeated Duration |  |" in book
    assert "| `open` | optional bool |  |" in book
    assert "| `kind` | [Book.Kind](#bookkind) |  |" in book
    assert "| `ink` | bytes |  |" in section(small, "Book.Page")
    assert "No fields." in section(small, "Nothing")


def test_the_line_above_a_group_of_values_stands_above_their_table(small: str) -> None:
    kinds = section(small, "Book.Kind")

    assert kinds.index("These are thin.") < kinds.index("`KIND_LEAFLET` | 1 | After it. |")
    assert kinds.index("`KIND_UNSPECIFIED` | 0 |") < kinds.index("These are thin.")


def test_what_markdown_would_take_for_a_tag_stays_text(small: str) -> None:
    assert "Put takes \\<name> | value." in section(small, "Shelf.Put")
    assert "About the file." in small


def section(document: str, heading: str) -> str:
    """What stands under this heading, up to the next one."""
    begin = document.index(f"\n### {heading}\n")
    end = document.find("\n##", begin + 1)
    return document[begin : end if end > 0 else len(document)]
