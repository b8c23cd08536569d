"""Training and measuring the networks; what is installed for use is :mod:`keypoints`.

Train on your own points: a folder of images, and a CSV file with a row of 68 points for each. Twenty faces of the
sample and one epoch show here how it is done; they are far too few for a useful network:

>>> from pathlib import Path
>>> from training.recipe import Recipe
>>> from training.train import labelled_set, train
>>> Path("build").mkdir(exist_ok=True)
>>> labels, out = Path("build/own.csv"), Path("build/own.safetensors")
>>> rows = Path("data/sample/test_frames_keypoints.csv").read_text().splitlines()
>>> _ = labels.write_text("\\n".join(rows[:21]))
>>> data = labelled_set("training", csv_file=labels, images=Path("data/sample/test"))
>>> record = train(data, out, Recipe(epochs=1))  # doctest: +ELLIPSIS
data: build/own.csv
...
saved build/own.safetensors and build/own.json

The ONNX files lie beside the weights, and :class:`keypoints.KeypointDetector` runs them without PyTorch:

>>> from keypoints import KeypointDetector
>>> detector = KeypointDetector("build/own.safetensors")
>>> [face.keypoints.shape for face in detector("data/photos/grace_hopper.jpg")]
[(68, 2)]

Export any other weights:

>>> from training.export import export_onnx
>>> from training.weights import load_model
>>> [file.name for file in export_onnx(load_model(out), "build/exported.onnx")]
['exported.coarse.onnx', 'exported.fine.onnx']

``python -m training train|evaluate|failures|export`` does the same on the command line.
"""
