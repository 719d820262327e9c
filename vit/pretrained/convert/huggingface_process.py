"""Run as a script, in a process of its own that is started outside any checkout: from the root of ours, Python would
find our `datasets/` where Hugging Face imports its own. Nothing of vit is imported here, and nothing imports this.

    python -P huggingface_process.py FOLDER...

Each folder is one for `from_pretrained`, with asked.safetensors (the arguments of the call) and asked.json ("class",
its "arguments", and "output", the name of what is wanted). Writes answer.json, with what is wrong with the weights,
and answer.safetensors where nothing is.
"""

import json
import sys
from pathlib import Path


def answer(folder: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    made = getattr(transformers, asked["class"])
    model, info = made.from_pretrained(folder, output_loading_info=True, **asked["arguments"])
    wrong = {key: sorted(map(str, names)) for key, names in info.items() if names}
    told = {"version": transformers.__version__, "wrong": wrong}
    if not wrong:
        with torch.inference_mode():
            given = load_file(folder / "asked.safetensors")
            found = getattr(model.float().eval()(**given), asked["output"])
        save_file({"answer": found.float().contiguous()}, folder / "answer.safetensors")
    (folder / "answer.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        answer(Path(name))
