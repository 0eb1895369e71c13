"""Streams over HTTP: from a request to a grant, from a grant to a response, and what carries it from there."""
