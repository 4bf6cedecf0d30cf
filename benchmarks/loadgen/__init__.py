"""MLPerf's own LoadGen as the judge: it decides what is asked when, takes the time, and says VALID or INVALID."""
