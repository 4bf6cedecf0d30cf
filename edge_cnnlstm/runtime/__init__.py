"""Frame in, prediction out."""
