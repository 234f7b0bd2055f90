"""What is wrong, why it probably is, who is told, and what customers may be told."""
