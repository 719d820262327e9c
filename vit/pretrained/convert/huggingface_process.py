"""A script that runs in a process of its own, started outside any checkout: in the root of ours, Python would find our
folder `datasets/` where transformers imports Hugging Face's. It imports nothing of vit, and nothing imports it.

    python -P huggingface_process.py FOLDER...

Each folder is one for `from_pretrained`, with inputs.safetensors (the arguments of the call) and request.json ("class",
its "arguments", and "output", the name of the requested output). The script writes answer.json, with all problems of
the weights, and answer.safetensors if there are none.
"""

import json
import sys
from pathlib import Path


def run(folder: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    kind = getattr(transformers, request["class"])
    model, info = kind.from_pretrained(folder, output_loading_info=True, **request["arguments"])
    wrong = {key: sorted(map(str, names)) for key, names in info.items() if names}
    answer = {"version": transformers.__version__, "wrong": wrong}
    if not wrong:
        with torch.inference_mode():
            inputs = load_file(folder / "inputs.safetensors")
            found = getattr(model.float().eval()(**inputs), request["output"])
        save_file({"answer": found.float().contiguous()}, folder / "answer.safetensors")
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
