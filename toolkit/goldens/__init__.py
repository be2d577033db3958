"""Golden files: what the reference computed, whole, for the tests of the Go half.

Tensors are kept in safetensors files; the one metadata entry `golden` is a JSON object with the
command and the library versions that made the file, and for files that depend on weights their
SHA-256. Text and pictures are kept as JSON lines and in their own formats.
"""
