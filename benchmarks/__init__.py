"""What is measured. `latency` knows bundles and `Stream`, never the training side; `memory` trains."""
