"""What the rows of an evaluation say: means with intervals, paired differences, and a sanity verdict of each method."""
