"""What memory is worth, and what it costs: networks that differ in their memory alone, trained alike and compared."""
