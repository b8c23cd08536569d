"""Fail when the shipped weights are worse on the official test set than their committed figures say.

`python .ci/check_official.py FOLDER`; FOLDER holds test/ and test_frames_keypoints.csv.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keypoints.files import sha256
from training.evaluation import RESULTS, at_use, evaluate
from training.weights import MODEL_DIR

TOLERANCE = 0.05  # percentage points: other processors round differently

root, passed, failed = Path(sys.argv[1]), 0, 0
recorded = json.loads((RESULTS / "evaluation.json").read_text(encoding="utf-8"))
for model in recorded["models"]:
    path = MODEL_DIR / model["weights"]
    if sha256(path) != model["sha256"]:
        print(f"{path.name}: results/evaluation.json was measured on other weights: run 'make evaluate'")
        failed += 1
        continue
    net = at_use(path)
    offset = isinstance(net, Path)
    for framing in ("centre", "haar"):
        if framing not in model["test"]:
            continue
        figures = evaluate(net, root / "test_frames_keypoints.csv", root / "test", framing, offset=offset).figures
        record = model["test"][framing]
        good = (
            figures["n"] == record["n"]
            and figures["found"] >= record["found"]
            and figures["nme_box"] <= record["nme_box"] + TOLERANCE
        )
        passed, failed = passed + good, failed + (not good)
        print(
            f"{path.stem}, framing {framing}: NME_box {figures['nme_box']:.3f} %, "
            f"found {figures['found']} of {figures['n']}; "
            f"on record {record['nme_box']:.3f} %, {record['found']}: {'ok' if good else 'WORSE'}"
        )
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0 or not passed)
