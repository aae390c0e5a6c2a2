"""Speed and memory, always as ratios of competitors that take turns in one run."""
