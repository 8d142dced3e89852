"""The databases that store the journal, its projections and the rows."""
