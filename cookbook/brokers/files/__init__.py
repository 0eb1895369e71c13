"""A broker over the files of one folder: several processes on one machine, and nothing to install.

It is the example of the page "Writing a broker". Copy this folder into a project, and name it in the settings:

    DS_BROADCASTER_BROKER = {"BACKEND": "yourproject.files.FileBroker", "LOCATION": "/run/yourproject/broker"}
"""

from .broker import FileBroker

__all__ = ["FileBroker"]
