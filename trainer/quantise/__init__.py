"""INT8 that loses nothing: static quantisation, the ladder of remedies above it, and the gate between its rungs."""

from trainer.quantise.static import Static, Way, quantise

__all__ = ["Static", "Way", "quantise"]
