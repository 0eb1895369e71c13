"""`manage.py runserver` that serves streams, with uvicorn. Needs the extra `uvicorn`."""
