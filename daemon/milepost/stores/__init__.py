"""Where the journal, its projections and the rows are kept."""
