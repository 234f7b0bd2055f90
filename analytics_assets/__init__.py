"""Customer analytics that can be trusted."""
