"""Training and measuring the networks; what is installed for use lies in :mod:`keypoints`.

In work: the face detector (:mod:`training.detector`) and the fine network (:mod:`training.fine`) have no weights yet,
and nothing uses them.
"""
