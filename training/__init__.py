"""Training and measuring the networks; what is installed for use lies in :mod:`keypoints`."""
