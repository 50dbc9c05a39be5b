"""C compiled for this processor at first use, and what all of it begins with: numbers in vectors, threads that share."""
