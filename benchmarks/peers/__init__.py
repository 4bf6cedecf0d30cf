"""The same weights and frames in every engine that a user would pick instead, side by side."""
