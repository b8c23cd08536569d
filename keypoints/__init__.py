"""What the notebooks and the command line share: images, landmarks, metrics, training, detection, evaluation, plots."""
