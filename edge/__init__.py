"""What runs on the adapter: a frame's way from the sensor to the phone, and the contracts that the trainer builds to."""

__version__ = "0.1.0"
