"""What the notebooks and the command line share: landmarks, metrics, training, detection, evaluation, plots."""

import data_load  # noqa: F401  sets OpenCV's limits before any module here imports OpenCV
