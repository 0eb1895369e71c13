"""Pages without a browser: HTML as browsers read it, changed as the Datastar client changes it.

    page = Document(response.content.decode())
    page.patch('<li id="message-2">hi</li>', selector="#messages", mode="append")
    assert [li.text for li in page.select("#messages li")] == ["hello", "hi"]

It needs the extra `testing`: pip install "ds-broadcaster[testing]".
"""

try:
    import turbohtml  # noqa: F401
except ImportError as error:
    raise ImportError('Pages in tests need a parser: run `pip install "ds-broadcaster[testing]"`.') from error

from .document import Document
from .elements import Element, parse_fragment
from .signals import sent as sent_signals

__all__ = ["Document", "Element", "parse_fragment", "sent_signals"]
