"""ONNX models: a scan of the protobuf framing, by the schema."""
