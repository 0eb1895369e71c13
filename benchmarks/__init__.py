"""Measure ds_broadcaster beside its peers: `python -m benchmarks` (README.md says what each figure means)."""
