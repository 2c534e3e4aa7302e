"""What runs on the adapter: a frame's way from sensor to phone, and the contracts that the trainer builds to."""

__version__ = "0.1.0"
