"""A stand-in for a training tool: leaves the files of a training, trains nothing.

It copies the folder that is named as its config, out of the folder in FAKE_TRAININGS, and notes its
options in `started`. A folder with a file `fail` leaves a checkpoint and fails.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("opts", nargs="*")
    args = parser.parse_args()
    options = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    trainings = Path(os.environ["FAKE_TRAININGS"])
    source, folder = trainings / args.config_file.stem, Path(options["OUTPUT_DIR"])
    with (trainings / "started").open("a") as started:
        started.write(json.dumps([str(args.config_file), args.resume, options]) + "\n")
    if (source / "fail").exists():
        (folder / "last_checkpoint").write_text("model_0000019.pth")
        (folder / "model_0000019.pth").write_text("half")
        sys.exit("ValueError: the reason")
    shutil.copytree(source, folder, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
