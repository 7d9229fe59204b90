"""Data: the embedded emoji and the batches that training reads."""
