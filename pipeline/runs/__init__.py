"""Where a pipeline runs, and what is heard of it: runners, progress, local workers."""
