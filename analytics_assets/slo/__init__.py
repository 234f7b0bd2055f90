"""What is promised over weeks: objectives, how much of them is used up, and what a spent budget stops."""
