"""How good answers are: scores that add up over batches and processes, and the details behind them."""

from edge_cnnlstm.training.metrics.meters import Meters, higher_is_better

__all__ = ["Meters", "higher_is_better"]
