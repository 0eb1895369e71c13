"""The commands of `manage.py`, and what they know of a project's files."""
