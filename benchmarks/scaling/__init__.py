"""What a step costs as the network, its input or its company grows."""
