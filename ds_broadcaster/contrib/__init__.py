"""Apps that only some projects need."""
