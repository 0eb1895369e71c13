"""A project that uses every public name. Nothing runs it: mypy and pyright read it, in `make lint`."""
