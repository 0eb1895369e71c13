"""The pages that this process is answering: what is done in the background leaves them the processor."""


class Pages:
    """Counts the requests that have come in and whose answer has not begun."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


# Of this process: the wrapper around Django counts them, and each hub looks.
pages = Pages()
