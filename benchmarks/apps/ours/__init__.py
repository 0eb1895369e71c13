"""ds_broadcaster with its defaults."""
