"""A stand-in for a gRPC plugin of protoc: writes down the ``go_package`` of each file."""

from __future__ import annotations

import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse


def main() -> None:
    """Answer protoc as a plugin does."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = CodeGeneratorResponse()
    packages = {file.name: file.options.go_package for file in request.proto_file}
    for name in request.file_to_generate:
        response.file.add(name=f"{sys.argv[1]}/{name}.txt", content=packages[name])
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
