"""Making files: heavy packages (torch, transformers, optimum, nncf, onnx) live here and never in the runtime."""
