"""Fair comparisons: arms run by one plan under one budget (the runner), and what their numbers say (the analysis)."""
