"""onnxruntime as verification uses it: files, sessions, and which input of one model is which of another."""
