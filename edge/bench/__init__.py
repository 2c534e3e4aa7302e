"""`foldsight bench`: what this machine really does, frame by frame, and whether it got better."""

from edge.bench.compare import compare, comparison_table, load
from edge.bench.measure import run
from edge.bench.plot import draw
from edge.bench.report import report
from edge.bench.ring import NAME as SYNTHETIC

__all__ = ["SYNTHETIC", "compare", "comparison_table", "draw", "load", "report", "run"]
