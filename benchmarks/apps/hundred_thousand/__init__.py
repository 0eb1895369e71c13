"""Streams of the channel that the address names, over Redis, as many as a worker may have."""
