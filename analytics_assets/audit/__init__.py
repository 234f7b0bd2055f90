"""Who did what to which data: an append-only log that shows when it was changed, and reports from it."""
