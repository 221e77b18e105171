"""What people ask of a run: SQL, summary, pictures."""
