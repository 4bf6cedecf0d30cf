"""What a step takes on a GPU, and what the runtime adds to it there: each measurement in a process of its own."""
