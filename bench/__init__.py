"""Speed as ratios, counters as exact figures; see README.md."""
