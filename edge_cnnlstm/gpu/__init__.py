"""ONNX in, TensorRT plan out, on this device."""
