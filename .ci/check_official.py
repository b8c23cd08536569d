"""Fail when the shipped weights are worse on the official test set than their committed record says.

`python .ci/check_official.py FOLDER`; FOLDER holds test/ and test_frames_keypoints.csv.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keypoints.evaluation import evaluate
from models import load_model

RESULTS = Path(__file__).resolve().parent.parent / "results"
TOLERANCE = 0.05  # percentage points: other processors round differently

root, failed, net = Path(sys.argv[1]), 0, load_model()
for framing in ("centre", "haar"):
    figures = evaluate(net, root / "test_frames_keypoints.csv", root / "test", framing).figures
    record = json.loads((RESULTS / f"official_test_{framing}.json").read_text())
    good = (
        figures["n"] == record["n"]
        and figures["found"] >= record["found"]
        and figures["nme_box"] <= record["nme_box"] + TOLERANCE
    )
    failed += not good
    print(
        f"framing {framing}: NME_box {figures['nme_box']:.3f} %, found {figures['found']} of {figures['n']}; "
        f"on record {record['nme_box']:.3f} %, {record['found']}: {'ok' if good else 'WORSE'}"
    )
print(f"{2 - failed} passed, {failed} failed")
sys.exit(failed > 0)
