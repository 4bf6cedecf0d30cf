"""Bundle in, numbers out. Knows bundles and `Stream`; never the training side."""
