"""Serving where torch is not installed: run by .ci/run in environments with only the onnx and openvino extras.

python tests/lean.py write MODEL EXPECTED.npy      with torch: what the vectors should be
python tests/lean.py compare MODEL EXPECTED.npy    without: encode with every engine and compare
"""

import sys
from importlib.util import find_spec

import numpy as np

from stopt import SentenceTransformer

TEXTS = [
    "Serving needs no torch.",
    "",
    "Ein zweiter, längerer Satz mit Umlauten: äöü.",
    "日本語の文",
    "word " * 400,
]
# OpenVINO is asked for float32, so only the order of additions differs
TOLERANCE = 1e-5


def main(action: str, folder: str, file: str) -> None:
    if action == "write":
        np.save(file, SentenceTransformer(folder, backend="torch").encode(TEXTS))
        return
    for package in ("torch", "transformers", "optimum"):
        assert find_spec(package) is None, f"{package} is installed: this environment proves nothing"
    expected = np.load(file)
    for backend, options in (("onnx", {}), ("openvino", {"dtype": "float32"})):
        model = SentenceTransformer(folder, backend=backend, model_kwargs=options)
        error = float(np.abs(model.encode(TEXTS) - expected).max())
        assert error < TOLERANCE, f"{backend}: {error}"
        print(f"python {sys.version.split()[0]} {backend}: largest difference to torch {error:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
