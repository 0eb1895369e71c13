"""The staff page: what the processes serve now, with forms to send, disconnect and kill."""
