"""What the runtime adds to an engine, and what it does to be on time: each measured in processes of its own."""
