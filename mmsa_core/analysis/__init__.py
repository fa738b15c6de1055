"""What data and predictions say once they are there: nothing here trains a member."""
