"""The staff page: what the processes serve right now, and buttons to send, disconnect and kill."""
