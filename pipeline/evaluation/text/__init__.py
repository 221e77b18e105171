"""A summary in words: tables, verdicts and what has no value, for a terminal and as Markdown."""
