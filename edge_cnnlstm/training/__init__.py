"""Network, data, training and evaluation; the only part of the package that imports torch."""
