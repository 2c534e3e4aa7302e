"""The laboratory: methods of distillation compared under one protocol, on any labels."""
