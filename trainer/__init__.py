"""What runs on a desktop or server: from labelled images to the bundle that the adapter installs."""

import os

# Since 1.29 importing ONNX Runtime would start telemetry. Nothing is sent from here either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
