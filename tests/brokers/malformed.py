"""What another program may write where a broker reads: strategies for hypothesis."""

import json

from hypothesis import strategies as st

NUMBERS = ["0", "-1", "1e400", "1.5", "NaN", "9" * 20, "9" * 5000, "0x10", "1_0"]

_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["uuid", "pk", "exclude"]), inner),
    max_leaves=8,
)

# Anything: bytes, JSON of any shape, and JSON with bytes after it.
BYTES = st.binary() | st.builds(lambda value, rest: json.dumps(value).encode() + rest, _JSON, st.binary(max_size=8))


def mangled(right: bytes) -> st.SearchStrategy[bytes]:
    """Return right bytes that are cut, or have other bytes in between."""

    def mangle(begin: int, end: int, other: bytes) -> bytes:
        return right[:begin] + other + right[end:]

    place = st.integers(0, len(right))
    other = st.binary(max_size=12) | st.sampled_from([each.encode() for each in NUMBERS])
    return st.builds(mangle, place, place, other)
