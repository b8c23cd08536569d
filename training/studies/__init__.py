"""The studies behind the figures: each is a command that writes a file of results/."""
