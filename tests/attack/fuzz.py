"""Run the fuzzers of this suite at length with atheris, which looks for the inputs that reach new code.

    pip install atheris
    python -m tests.attack.fuzz                                    # the names of the fuzzers
    python -m tests.attack.fuzz no_text_is_a_token -max_total_time=600

Options after the name are libFuzzer's. A failure prints the example that hypothesis has made of the input.
"""

import os
import sys

import atheris
import django


def fuzzers():
    """Return every hypothesis test of the suite without pytest's parameters, by its name without `test_`."""
    with atheris.instrument_imports(include=["ds_broadcaster"]):
        from tests.attack import test_forged_events, test_parsers
        from tests.brokers import test_packing, test_postgres_messages, test_redis_messages
    modules = (test_forged_events, test_parsers, test_packing, test_postgres_messages, test_redis_messages)
    found = {name: test for module in modules for name, test in vars(module).items()}
    return {
        name.removeprefix("test_"): test.hypothesis.fuzz_one_input
        for name, test in found.items()
        if hasattr(test, "hypothesis") and not hasattr(test, "pytestmark")
    }


def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    found = fuzzers()
    if len(sys.argv) < 2 or sys.argv[1] not in found:
        sys.exit("\n".join(sorted(found)))
    atheris.Setup([sys.argv[0], *sys.argv[2:]], found[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
