"""Writes descriptors.txt: every message, field, enum and method of the inference
protocol, one a line, read from the descriptors inside the PyPI package tritonclient.

    python -m venv /tmp/describe && /tmp/describe/bin/pip install 'tritonclient[grpc]==2.73.0'
    /tmp/describe/bin/python tritonclient/inference/testdata/describe.py > tritonclient/inference/testdata/descriptors.txt
"""

import importlib.metadata

from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

TYPES = descriptor_pb2.FieldDescriptorProto.Type
REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def enum(scope, e):
    for value in e.value:
        yield f"enum {scope}.{e.name} {value.name} {value.number}"


def message(scope, m):
    name = f"{scope}.{m.name}"
    yield f"message {name}"
    for field in m.field:
        parts = ["field", name, field.name, str(field.number)]
        parts.append("repeated" if field.label == REPEATED else "optional")
        parts.append(TYPES.Name(field.type).removeprefix("TYPE_").lower())
        if field.type_name:
            parts.append(field.type_name.removeprefix("."))
        if field.HasField("oneof_index"):
            parts.append("oneof " + m.oneof_decl[field.oneof_index].name)
        yield " ".join(parts)
    for nested in m.enum_type:
        yield from enum(name, nested)
    for nested in m.nested_type:
        yield from message(name, nested)


def file(descriptor):
    f = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(f)
    for e in f.enum_type:
        yield from enum(f.package, e)
    for m in f.message_type:
        yield from message(f.package, m)
    for service in f.service:
        for method in service.method:
            streams = f"{int(method.client_streaming)}{int(method.server_streaming)}"
            yield (
                f"rpc {f.package}.{service.name} {method.name} "
                f"{method.input_type.removeprefix('.')} {method.output_type.removeprefix('.')} streams {streams}"
            )


def main():
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("tritonclient", "protobuf"))
    print(f"# Written by describe.py from {versions}. Do not edit.")
    print("\n".join(sorted([*file(service_pb2.DESCRIPTOR), *file(model_config_pb2.DESCRIPTOR)])))


main()
