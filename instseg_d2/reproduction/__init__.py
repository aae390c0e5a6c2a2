"""Train the rows of a paper's tables, and put the results beside what the paper prints."""
