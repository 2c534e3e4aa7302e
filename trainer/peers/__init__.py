"""The same models in other runtimes, side by side (docs/peers.md): nothing here is part of what ships or trains."""
