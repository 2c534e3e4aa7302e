"""Errors whose one sentence is meant for the person at the terminal: what, where, what to do."""


class FoldsightError(Exception):
    """Something the user can act on; the command line prints its sentence and no traceback."""

    exit_code = 1


class ConfigError(FoldsightError):
    """The configuration cannot be used; one line per fault."""

    exit_code = 2


class BundleError(FoldsightError):
    """A model bundle is damaged, too new, or does not give its golden outputs here."""


class EngineError(FoldsightError):
    """A runtime beside ONNX Runtime (TensorRT and its GPU, ncnn) is missing, or cannot do what is asked."""


class SourceError(FoldsightError):
    """A source of frames cannot be opened, or stopped delivering."""


class EndOfSource(Exception):  # noqa: N818  a replay's end is news, not a fault
    """A replay has delivered its last frame."""
