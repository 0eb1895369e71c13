"""django-eventstream as its README sets it up for one process, without Redis and without storage."""
