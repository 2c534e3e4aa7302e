"""A shipped model for one clinic: refitted to its own few labelled frames, where that is shown to help."""
