"""Judging every table before readers see it. What is expected stands beside the tables; here it is measured and judged."""
