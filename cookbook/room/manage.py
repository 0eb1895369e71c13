#!/usr/bin/env python
import os
import sys
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    if find_spec("ds_broadcaster") is None:  # not installed: use the checkout that contains this demo
        sys.path.append(str(Path(__file__).resolve().parents[2]))

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
