"""What every step of every run took: measured while it runs, and kept as a table. Knows nothing of Dagster."""
