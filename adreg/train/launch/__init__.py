"""One training in several processes: what a profile says, starting and ending them, and what each of them is told."""
