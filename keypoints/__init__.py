"""The library: an image in, its faces with their keypoints out; what learns and measures is :mod:`training`."""
