"""Side-by-side measurements with peers in one run: every target is a ratio, so the machine hardly matters."""
