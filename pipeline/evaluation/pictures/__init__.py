"""The pictures of an evaluation: mean curves, and how maps change as blocks become random."""
