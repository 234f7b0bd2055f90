"""People taken out of everything under the data home: `people` does it, `logs` sees to what others write, `probe` looks."""
