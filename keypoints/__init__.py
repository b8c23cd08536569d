"""What the notebooks and the command line share: landmarks, metrics, training, detection, evaluation, plots."""
