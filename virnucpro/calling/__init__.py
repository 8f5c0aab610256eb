"""Feature rows to answers; numpy only."""
