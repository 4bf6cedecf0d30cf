"""Whether quantized networks still say what FP32 says after thousands of frames, and how far their memories drift."""
