"""The applications under load: each streams on /stream and broadcasts on /publish."""
