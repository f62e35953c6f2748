"""A gRPC plugin of protoc that writes down, for each file, the package it was told to use."""

from __future__ import annotations

import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse


def main() -> None:
    """Answer protoc as any plugin does."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = CodeGeneratorResponse()
    packages = {file.name: file.options.go_package for file in request.proto_file}
    for name in request.file_to_generate:
        response.file.add(name=f"{sys.argv[1]}/{name}.txt", content=packages[name])
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
