"""The file that crosses from the workstation to the robot."""
